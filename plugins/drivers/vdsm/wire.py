"""One TCP connection that carries frames: the rules of writing, heart-beats both ways, the end.

A frame leaves in one write that is preceded by a check of authority, or not at all: where bytes
would have to stay behind in this process (the host does not read), the connection is reset, since a
buffer that is flushed after this process was frozen would run before any check. There is no task:
everything happens in callbacks, and one lazy timer watches the silence. All connections of a driver
read through one shared buffer, so an idle one costs only its own few objects.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final, Protocol, cast

from engine.plugin import Authority, HostUnreachable
from plugins.drivers.vdsm.stomp import HEARTBEAT, Decoder, Frame, ProtocolError, encode
from plugins.drivers.vdsm.tls import TlsChannel, TlsFault

READ_BUFFER_BYTES: Final = 256 * 1024
_SEND_BUFFER_BYTES: Final = 256 * 1024
"""Large enough that any request fits into an empty one whole; the kernel takes memory only as used."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_MAX_USER_TIMEOUT_MS: Final = 2**31 - 1
_TLS_RECORD_TYPES: Final = (0x15, 0x16)


class Session(Protocol):
    """Who speaks over a wire. Called in the loop; must not block."""

    def wire_opened(self) -> None:
        """Frames may be sent: TCP, and TLS where wanted, are up."""

    def wire_received(self, frame: Frame) -> None: ...

    def wire_lost(self, reason: str) -> None:
        """Called once, when no further frame can come or go."""


class Wire(asyncio.BufferedProtocol):
    """A connection as the loop sees it. `name` (address:port) opens every error text."""

    __slots__ = (
        "_authority",
        "_closed",
        "_decoder",
        "_expect_seconds",
        "_loop",
        "_read_buffer",
        "_received_at",
        "_send_seconds",
        "_sent_at",
        "_session",
        "_timer",
        "_tls",
        "_transport",
        "_user_timeout_ms",
        "name",
        "over",
    )

    def __init__(
        self,
        session: Session,
        *,
        name: str,
        authority: Authority,
        read_buffer: memoryview,
        decoder: Decoder,
        tls: TlsChannel | None,
    ) -> None:
        self.name = name
        self.over: str | None = None
        """Why the wire carries nothing any more; None while it does."""
        self._session = session
        self._authority = authority
        self._read_buffer = read_buffer
        self._decoder = decoder
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed: asyncio.Future[None] | None = None
        self._received_at = self._sent_at = self._loop.time()
        self._expect_seconds = self._send_seconds = 0.0
        self._user_timeout_ms = 0

    # --- writing ---

    def send(self, frame: Frame) -> None:
        """Send `frame`, whole and now, if this engine may act.

        Raises `AuthorityLost`, or `HostUnreachable` when the host cannot have got the frame.
        """
        self.send_encoded(encode(frame))

    def send_encoded(self, data: bytes) -> None:
        """As `send`, of a frame that is bytes already."""
        self._limit_user_timeout()
        self._authority.check()
        self._write(data)
        if self.over is not None:
            raise HostUnreachable(self.over)

    def _write(self, data: bytes) -> None:
        transport = self._transport
        if self.over is not None or transport is None:
            return
        if transport.get_write_buffer_size():
            self.abort("does not read what it is sent")
            return
        if self._tls is not None:
            try:
                data = self._tls.seal(data) if data else self._tls.outgoing()
            except TlsFault as fault:
                self.abort(str(fault))
                return
        if data:
            self._sent_at = self._loop.time()
            transport.write(data)

    def pause_writing(self) -> None:
        """Something stayed behind in the transport (its limit is 0): it must not leave later."""
        self.abort("does not read what it is sent")

    def _limit_user_timeout(self) -> None:
        """Let the kernel give up on unacknowledged bytes before authority ends."""
        remaining = self._authority.remaining_seconds() * 1000
        if self._transport is None or self.over is not None or remaining <= 0:
            return
        if self._user_timeout_ms <= remaining < 2 * self._user_timeout_ms:
            return
        sock = self._transport.get_extra_info("socket")
        self._user_timeout_ms = limit_user_timeout(sock, remaining * 0.75)

    # --- heart-beats ---

    def keep_alive(self, *, send_seconds: float, expect_seconds: float) -> None:
        """Say something at least each `send_seconds`, lose a host silent for 2 `expect_seconds`; 0: never."""
        self._send_seconds, self._expect_seconds = send_seconds, expect_seconds
        self._watch()

    def _watch(self) -> None:
        """Lazy: traffic only moves the two times, and the timer looks when one may be due."""
        self._timer = None
        if self.over is not None:
            return
        now = self._loop.time()
        due = []
        if self._expect_seconds:
            lost_at = self._received_at + 2 * self._expect_seconds
            if now >= lost_at:
                self.abort(f"silent for {now - self._received_at:.1f} s")
                return
            due.append(lost_at)
        if self._send_seconds:
            if now >= self._sent_at + self._send_seconds * 0.75:
                self._write(HEARTBEAT)
            due.append(self._sent_at + self._send_seconds * 0.75)
        if due and self.over is None:
            self._timer = self._loop.call_at(min(due), self._watch)

    # --- the end ---

    def abort(self, reason: str) -> None:
        """Reset the connection; nothing lingers, not even in the kernel. The first reason stays."""
        self._end(reason)
        if self._transport is not None:
            self._transport.abort()

    async def closed(self) -> None:
        """Wait until the socket is closed, after `abort`."""
        if self._transport is not None:
            if self._closed is None:
                self._closed = self._loop.create_future()
            await asyncio.shield(self._closed)

    def _end(self, reason: str) -> None:
        if self.over is not None:
            return
        self.over = f"{self.name}: {reason}"
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._session.wire_lost(self.over)

    # --- asyncio.BufferedProtocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(0)
        if self.over is not None:
            self._transport.abort()
        elif self._tls is None:
            self._session.wire_opened()
        else:
            self._tls.begin()
            self._write(b"")

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.over is not None:
            return
        self._received_at = self._loop.time()
        if self._tls is None:
            self._decode(bytes(self._read_buffer[:nbytes]))
            return
        established = self._tls.established
        broken: TlsFault | None = None
        try:
            clear = self._tls.open(self._read_buffer[:nbytes])
        except TlsFault as fault:
            clear, broken = fault.clear, fault
        self._write(b"")  # what TLS itself has to say
        if self._tls.established and not established:
            self._session.wire_opened()
        if clear:
            self._decode(clear)
        if broken is not None:
            self.abort(str(broken))

    def _decode(self, data: bytes) -> None:
        fault: str | None = None
        frames: list[Frame] | tuple[Frame, ...]
        try:
            frames = self._decoder.feed(data)
        except ProtocolError as error:
            frames, fault = error.frames, f"broke the protocol: {error}"
            if self._tls is None and data[0] in _TLS_RECORD_TYPES:
                fault = "speaks TLS, and the option tls is off"
        for frame in frames:
            if self.over is None:
                self._session.wire_received(frame)
        if fault is not None:
            self.abort(fault)

    def eof_received(self) -> None:
        within = " within a frame" if self._decoder.pending else ""
        self.abort(f"closed the connection{within}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end(f"connection lost: {exc}" if exc is not None else "closed the connection")
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)


def open_socket(family: int, authority: Authority) -> socket.socket:
    """A socket that sends at once, dies with what it has not sent, and gives up before authority ends."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        limit_user_timeout(sock, authority.remaining_seconds() * 1000 * 0.75)
    except BaseException:
        sock.close()
        raise
    return sock


def limit_user_timeout(sock: socket.socket, milliseconds: float) -> int:
    """Set TCP_USER_TIMEOUT; return what was set. Never 0, which would mean the system's 15 minutes."""
    limit = int(min(max(milliseconds, 1), _MAX_USER_TIMEOUT_MS))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit)
    return limit
