"""One client's connection to a simulated host: STOMP as the agent speaks it, quirks included.

The first bytes must begin a STOMP command or the connection is reset; `accept-version` must be
exactly "1.2"; malformed frames, an unknown command and DISCONNECT without a receipt end the
connection; refusals are ERROR frames after which the connection lives on. No session is demanded
before SEND. JSON and verbs are `rpc.py`'s, routing is `broker.py`'s.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING

from plugins.drivers.vdsm.stomp import HEARTBEAT, Decoder, Frame, ProtocolError, encode
from plugins.simulator import rpc
from plugins.simulator.broker import is_request_queue
from plugins.simulator.wheel import Timer

if TYPE_CHECKING:
    from plugins.simulator.host import SimulatedHost

_FIRST = (
    b"CONNECT",
    b"CONNECTED",
    b"DISCONNECT",
    b"ERROR",
    b"MESSAGE",
    b"RECEIPT",
    b"SEND",
    b"SUBSCRIBE",
    b"UNSUBSCRIBE",
)
_DETECT_BYTES = max(map(len, _FIRST))
_LEAST_HEARTBEAT_MS = 1000
_UNREAD_LIMIT = 16 * 1024 * 1024
"""A client that does not read is dropped rather than buffered for without bound."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class AgentConnection(asyncio.Protocol):
    """Serves one client. Ten thousand of these wait at once: no task, no buffer while idle."""

    __slots__ = (
        "_beat_seconds",
        "_beat_timer",
        "_decoder",
        "_engine",
        "_first",
        "_heard",
        "_host",
        "_said",
        "_subscriptions",
        "_transport",
        "_watch_seconds",
        "_watch_timer",
    )

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host
        self._transport: asyncio.Transport | None = None
        self._decoder = Decoder()
        self._first: bytes | None = b""  # what came before the protocol was known; then None
        self._subscriptions: dict[str, str] = {}
        self._beat_seconds = self._watch_seconds = 0.0
        self._beat_timer: Timer | None = None
        self._watch_timer: Timer | None = None
        self._said = self._heard = 0.0
        self._engine = ""  # who is on the other side, as its requests say

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._host.opened(self, self._peer(transport))

    def data_received(self, data: bytes) -> None:
        self._heard = self._host.now()
        if self._first is not None:
            data = self._first + data
            if not self._detected(data):
                return
        frames: tuple[Frame, ...] | list[Frame]
        broken = False
        try:
            frames = self._decoder.feed(data)
        except ProtocolError as error:
            frames, broken = error.frames, True
        for frame in frames:
            if self._transport is None or self._transport.is_closing():
                return
            self._handle(frame)
        if broken:
            self.reset()

    def connection_lost(self, exc: Exception | None) -> None:
        transport, self._transport = self._transport, None
        for timer in (self._beat_timer, self._watch_timer):
            if timer is not None:
                timer.cancel()
        for subscription, destination in self._subscriptions.items():
            self._host.broker.unsubscribe(self, destination, subscription)
        self._subscriptions.clear()
        if transport is not None:
            self._host.closed(self, self._peer(transport))

    # --- what the host tells it ---

    def deliver(self, destination: str, subscription: str, message: bytes) -> None:
        headers = {
            "destination": destination,
            "content-type": "application/json",
            "subscription": subscription,
        }
        self._send(Frame("MESSAGE", headers, message))

    def reset(self) -> None:
        """End the connection with RST, at once."""
        transport = self._transport
        if transport is None:
            return
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()

    # --- STOMP ---

    def _detected(self, data: bytes) -> bool:
        """True once these bytes are known to be STOMP; bytes that cannot be reset the connection."""
        if len(data) >= _DETECT_BYTES and data.startswith(_FIRST):
            self._first = None
            return True
        if len(data) < _DETECT_BYTES and any(command.startswith(data[: len(command)]) for command in _FIRST):
            self._first = data
        else:
            self.reset()
        return False

    def _handle(self, frame: Frame) -> None:
        self._engine = frame.headers.get("engine-id", self._engine)
        if self._is_cut:
            return
        if self._host.faults.silent:
            if frame.command == "SEND":
                rpc.witness(self._host, frame)
            return
        match frame.command:
            case "SEND":
                self._on_send(frame)
            case "SUBSCRIBE":
                self._on_subscribe(frame.headers)
            case "UNSUBSCRIBE":
                self._on_unsubscribe(frame.headers)
            case "CONNECT":
                self._on_connect(frame.headers)
            case "DISCONNECT":
                self._on_disconnect(frame.headers)
            case _:
                self.reset()

    def _on_connect(self, headers: dict[str, str]) -> None:
        if any(":" in value for value in headers.values()):  # the agent exempts no command from escaping
            self.reset()
        elif headers.get("accept-version") != "1.2":
            self._refuse("Version unsupported")
        else:
            hears, beats = _heart_beat(headers.get("heart-beat", "0,0"))
            self._send(Frame("CONNECTED", {"version": "1.2", "heart-beat": f"{beats},{hears}"}))
            self._beat_seconds, self._watch_seconds = beats / 1000, hears / 1000
            if beats:
                self._beat()
            if hears:
                self._watch()

    def _on_subscribe(self, headers: dict[str, str]) -> None:
        destination, subscription = headers.get("destination"), headers.get("id")
        if not destination or not subscription:
            self._refuse("SUBSCRIBE needs destination and id")
        elif subscription in self._subscriptions:
            self._refuse("This subscription id is in use")
        else:
            self._subscriptions[subscription] = destination
            self._host.broker.subscribe(self, destination, subscription)

    def _on_unsubscribe(self, headers: dict[str, str]) -> None:
        subscription = headers.get("id")
        if not subscription:
            self._refuse("UNSUBSCRIBE needs an id")
            return
        destination = self._subscriptions.pop(subscription, None)
        if destination is not None:
            self._host.broker.unsubscribe(self, destination, subscription)

    def _on_disconnect(self, headers: dict[str, str]) -> None:
        receipt = headers.get("receipt")
        if receipt is None:
            self.reset()
        elif receipt:
            self._send(Frame("RECEIPT", {"receipt-id": receipt}))

    def _on_send(self, frame: Frame) -> None:
        destination = frame.headers.get("destination")
        if destination is None:
            self.reset()
            return
        subscribers = self._host.broker.subscribers(destination)
        for subscriber, subscription in subscribers:
            if isinstance(subscriber, AgentConnection):
                subscriber._forward(subscription, frame)
        if is_request_queue(destination):
            rpc.serve(self._host, frame)
        elif not subscribers:
            self._refuse("Subscription not available")

    def _forward(self, subscription: str, frame: Frame) -> None:
        self._send(Frame("MESSAGE", {"subscription": subscription, **frame.headers}, frame.body))

    def _refuse(self, why: str) -> None:
        self._send(Frame("ERROR", {}, why.encode()))

    def _send(self, frame: Frame) -> None:
        self._write(encode(frame))

    @property
    def _is_cut(self) -> bool:
        return self._engine in self._host.faults.cut

    def _write(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing() or self._is_cut:
            return
        if transport.get_write_buffer_size() > _UNREAD_LIMIT:
            self.reset()
            return
        self._said = self._host.now()
        transport.write(data)

    # --- heart-beats ---

    def _beat(self) -> None:
        """Say something at least each `_beat_seconds`; real traffic counts."""
        due = self._said + self._beat_seconds - self._host.now()
        if due <= self._host.wheel.tick_seconds:
            if not self._host.faults.silent:
                self._write(HEARTBEAT)
            due = self._beat_seconds
        self._beat_timer = self._host.wheel.after(due - self._host.wheel.tick_seconds, self._beat)

    def _watch(self) -> None:
        """Drop a client that promised heart-beats and is late."""
        due = self._heard + self._watch_seconds - self._host.now()
        if due < 0:
            self.reset()
        else:
            self._watch_timer = self._host.wheel.after(due + self._host.wheel.tick_seconds, self._watch)

    @staticmethod
    def _peer(transport: asyncio.BaseTransport) -> int:
        peer = transport.get_extra_info("peername")
        return int(peer[1]) if peer else 0


def _heart_beat(value: str) -> tuple[int, int]:
    """What the client offers and what it wants, ms, as the agent grants them: none, or a second or more."""
    sends, _, wants = value.partition(",")
    return _granted(sends), _granted(wants)


def _granted(text: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        return 0
    return max(int(text), _LEAST_HEARTBEAT_MS) if int(text) else 0
