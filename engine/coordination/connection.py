"""kazoo's connection, with ways of its own to write and to read.

A request leaves in the thread of the loop that makes it, when nothing stands in its way: to wake
kazoo's thread for it would cost as much as the server's answer. `_wire` guards what both threads do
to the socket, to the numbers of requests and to the line of those that await an answer; the loop never
waits for it. The hooks are kazoo 2.11's private methods, as in `tamed.py`, whose client makes this;
what does not say otherwise runs in kazoo's thread.
"""

from __future__ import annotations

import math
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from kazoo.exceptions import ConnectionDropped, ConnectionLoss
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.protocol.connection import CLOSE_RESPONSE, STOP_CONNECTING, ConnectionHandler
from kazoo.protocol.serialization import Connect, Watch, int_struct
from kazoo.protocol.states import KeeperState

from engine.coordination.mailbox import Mailbox

if TYPE_CHECKING:
    from engine.coordination.tamed import TamedClient

_CHUNK = 1 << 16
_HEADER = struct.Struct("!iii")
"""Of a request: the length of what follows, its number, its type."""
_LAST_XID = 2147483647


class Crossing:
    """Stands where kazoo expects its AsyncResult; carries the outcome into the loop.

    `deliver(value, error, sent)` is called there once; `sent` is False where not a byte of the
    request can have left.
    """

    __slots__ = ("_deliver", "_mailbox", "_sent", "connection")

    def __init__(
        self,
        mailbox: Mailbox,
        connection: int,
        deliver: Callable[[Any, BaseException | None, bool], None],
    ) -> None:
        self._mailbox = mailbox
        self.connection = connection
        self._deliver = deliver
        self._sent = False

    def set(self, value: Any = None) -> None:
        self._mailbox.post(self._deliver, value, None, self._sent)

    def set_exception(self, error: BaseException) -> None:
        self._mailbox.post(self._deliver, None, error, self._sent)

    def forgotten(self) -> None:
        """In the loop: the connection is gone, and kazoo will not answer any more."""
        self._deliver(None, ConnectionLoss(), self._sent)

    def may_leave(self, connection: int) -> bool:
        """Is this still the connection that the request was made for? Marks it as sent if so."""
        self._sent = connection == self.connection
        return self._sent

    def stayed(self) -> None:
        """Not a byte has left after all."""
        self._sent = False


@dataclass(frozen=True, slots=True)
class _Rest:
    """What the socket did not take at once of a request: it comes before any other."""

    data: bytes

    type: ClassVar[int] = 0


class Handler(SequentialThreadingHandler):  # type: ignore[misc]
    """kazoo's threads, with a bound on how long one host may keep us waiting."""

    connect_seconds = 2.5

    def create_connection(self, *arguments: Any, **options: Any) -> Any:
        options["timeout"] = min(options.get("timeout") or self.connect_seconds, self.connect_seconds)
        return super().create_connection(*arguments, **options)

    def select(
        self,
        readers: Iterable[socket.socket],
        writers: Iterable[socket.socket],
        _: object,
        timeout: float | None = None,
    ) -> tuple[list[socket.socket], list[socket.socket], list[socket.socket]]:
        """As kazoo's, which makes and closes an epoll object each time."""
        poll = select.poll()
        sought = {one.fileno(): one for one in readers}
        for number in sought:
            poll.register(number, select.POLLIN)
        found = {one.fileno(): one for one in writers}
        for number in found:
            poll.register(number, select.POLLOUT)
        ready = [number for number, _ in poll.poll(None if timeout is None else math.ceil(timeout * 1000))]
        return (
            [sought[number] for number in ready if number in sought],
            [found[number] for number in ready if number in found],
            [],
        )


class Connection(ConnectionHandler):  # type: ignore[misc]
    client: TamedClient

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._peer: tuple[str, int] | None = None
        self._received = bytearray()
        self._xid: Any = None
        self._wire = threading.Lock()
        self._stands = False
        """The handshake is done, and nobody has been told of an end; guarded by `_wire`."""

    def send_now(self, request: Any, crossing: Crossing) -> bool:
        """In the loop: False where it has to go the long way, through kazoo's queue and thread."""
        if not self._wire.acquire(blocking=False):
            return False
        try:
            if not self._stands or self.client._queue or isinstance(self._socket, ssl.SSLSocket):
                return False  # two threads may not use one TLS object at once
            if not crossing.may_leave(self.client.connection_number):
                return False
            payload = request.serialize()
            self._xid = xid = self._xid % _LAST_XID + 1
            message = _HEADER.pack(len(payload) + 8, xid, request.type) + payload
            self.client._pending.append((request, crossing, xid))  # before the answer can be there
            try:
                sent = self._socket.send(message)
            except BlockingIOError:
                sent = 0
            except OSError:
                return True  # kazoo's thread finds out, and fails whatever awaits an answer
            if sent == 0:
                self.client._pending.pop()
                crossing.stayed()
                return False
            if sent < len(message):
                self.client.enqueue(_Rest(message[sent:]), None)
            return True
        finally:
            self._wire.release()

    def fallen(self) -> None:
        """From here on, all that is asked goes through kazoo's queue, which it is about to empty."""
        with self._wire:
            self._stands = False

    def _expand_client_hosts(self) -> Any:
        """The server that was just lost comes last: it may be cut off from its leader."""
        found = super()._expand_client_hosts()
        return sorted(found, key=lambda item: (item[1], item[2]) == self._peer)

    def _connect_attempt(self, host: str, hostip: str, port: int, retry: Any) -> Any:
        if not self.client.may_connect():
            return STOP_CONNECTING if self.client.over else None
        self._peer = (hostip, port)
        outcome = super()._connect_attempt(host, hostip, port, retry)
        if self.client.client_state == KeeperState.EXPIRED_SESSION:
            self.client.over = self.client.expired = True
        return STOP_CONNECTING if self.client.over else outcome

    def _invoke(self, timeout: float, request: Any, xid: int | None = None) -> Any:
        """The handshake, before kazoo tells anybody that it is connected."""
        if not isinstance(request, Connect):
            return super()._invoke(timeout, request, xid)
        self.client.check_ours(request.session_id or None)
        # kazoo would wait a whole session for the only server, a third of it for each of three.
        answer = super()._invoke(min(timeout, self.handler.connect_seconds), request, xid)
        granted, _ = answer
        if granted.time_out > 0:
            self.client.connected_as(granted.session_id, granted.passwd, granted.time_out / 1000)
        return answer

    def _send_request(self, read_timeout: float, connect_timeout: float) -> None:
        queue = self.client._queue
        with self._wire:
            request, crossing = queue[0] if queue else (None, None)
            if isinstance(request, _Rest):
                self._write(request.data, connect_timeout)
            elif isinstance(crossing, Crossing) and not crossing.may_leave(self.client.connection_number):
                crossing.set_exception(ConnectionLoss("made for a connection that is gone"))
            else:
                super()._send_request(read_timeout, connect_timeout)
                return
            queue.popleft()
            self._read_sock.recv(1)

    def _send_ping(self, connect_timeout: float) -> None:
        with self._wire:
            super()._send_ping(connect_timeout)

    def _connect(self, host: str, hostip: str, port: int) -> Any:
        self._received.clear()
        timeouts = super()._connect(host, hostip, port)
        with self._wire:
            self._stands = True
        return timeouts

    def _read_socket(self, read_timeout: float) -> Any:
        """All packets that have arrived, where kazoo takes one a turn with three polls each: a burst
        of 300 events takes a third of the time."""
        response = super()._read_socket(read_timeout)
        while response != CLOSE_RESPONSE and self._packet_waits():
            response = super()._read_socket(read_timeout)
        return response

    def _packet_waits(self) -> bool:
        if len(self._received) >= int_struct.size:
            (length,) = int_struct.unpack_from(self._received)
            if len(self._received) >= int_struct.size + length:
                return True
        return self._undecrypted() > 0

    def _undecrypted(self) -> int:
        """What TLS has taken from the kernel and not given us: no poll tells of it."""
        return self._socket.pending() if isinstance(self._socket, ssl.SSLSocket) else 0

    def _read(self, length: int, timeout: float) -> bytes:
        while len(self._received) < length:
            with self._socket_error_handling():
                self._receive(timeout)
        data = bytes(self._received[:length])
        del self._received[:length]
        return data

    def _receive(self, timeout: float) -> None:
        try:
            chunk = self._socket.recv(_CHUNK)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not self.handler.select([self._socket], [], [], timeout)[0]:
                raise self.handler.timeout_exception("socket time-out during read") from None
            return
        if not chunk:
            raise ConnectionDropped("the server closed the connection")
        self._received += chunk

    def _read_watch_event(self, buffer: bytes, offset: int) -> None:
        watch, _ = Watch.deserialize(buffer, offset)
        self.client.on_event(watch.type, watch.path)
        super()._read_watch_event(buffer, offset)
