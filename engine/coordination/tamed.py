"""kazoo's client, held to one ZooKeeper session.

What stock kazoo does otherwise: after expiry it goes on with a new session, silently; requests made
while disconnected wait and are sent later; a request that was never sent and one whose reply was
lost fail alike; a host that drops packets is waited for a whole session. The hooks below are kazoo
2.11's private methods; a contract test fails when they change. Everything here runs in kazoo's
connection thread unless it says otherwise.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionDropped, ConnectionLoss, SessionExpiredError
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.protocol.connection import CLOSE_RESPONSE, STOP_CONNECTING, ConnectionHandler
from kazoo.protocol.serialization import Connect, Watch, int_struct
from kazoo.protocol.states import KeeperState
from kazoo.retry import KazooRetry
from kazoo.security import CREATOR_ALL_ACL, OPEN_ACL_UNSAFE

from engine.coordination.mailbox import Mailbox

_CHUNK = 1 << 16
_RETRY_DELAY_SECONDS = 0.05
_ATTEMPTS_PER_TIMEOUT = 4
_RETRY_MAX_SECONDS = 0.7  # kazoo adds up to 40 % of jitter: one second at most


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


class _Handler(SequentialThreadingHandler):  # type: ignore[misc]
    """kazoo's threads, with a bound on how long one host may keep us waiting."""

    connect_seconds = 2.5

    def create_connection(self, *arguments: Any, **options: Any) -> Any:
        options["timeout"] = min(options.get("timeout") or self.connect_seconds, self.connect_seconds)
        return super().create_connection(*arguments, **options)


class _Connection(ConnectionHandler):  # type: ignore[misc]
    client: TamedClient

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._peer: tuple[str, int] | None = None
        self._received = bytearray()

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
        if queue:
            crossing = queue[0][1]
            if isinstance(crossing, Crossing) and not crossing.may_leave(self.client.connection_number):
                queue.popleft()
                self._read_sock.recv(1)
                crossing.set_exception(ConnectionLoss("made for a connection that is gone"))
                return
        super()._send_request(read_timeout, connect_timeout)

    def _connect(self, host: str, hostip: str, port: int) -> Any:
        self._received.clear()
        return super()._connect(host, hostip, port)

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


class TamedClient(KazooClient):  # type: ignore[misc]
    """One session. `on_state(connected)` and `on_event` are called in kazoo's thread."""

    def __init__(
        self,
        hosts: str,
        timeout_seconds: float,
        *,
        on_event: Callable[[int, str], None],
        logger: logging.Logger,
        digest: str | None = None,
        tls: dict[str, Any] | None = None,
    ) -> None:
        handler = _Handler()
        super().__init__(
            hosts=hosts,
            timeout=timeout_seconds,
            handler=handler,
            connection_retry=KazooRetry(
                max_tries=-1, delay=_RETRY_DELAY_SECONDS, max_delay=_RETRY_MAX_SECONDS, ignore_expire=False
            ),
            command_retry=KazooRetry(max_tries=1, ignore_expire=False),
            default_acl=CREATOR_ALL_ACL if digest else OPEN_ACL_UNSAFE,
            auth_data={("digest", digest)} if digest else None,
            logger=logger,
            **(tls or {}),
        )
        handler.connect_seconds = timeout_seconds / _ATTEMPTS_PER_TIMEOUT
        self._connection: Any = _Connection(self, self._conn_retry.copy(), logger=logger)
        self.on_event = on_event
        self.over = False
        self.expired = False
        self.connection_number = 0
        self.negotiated_seconds = timeout_seconds
        self._identity: tuple[int, bytes] | None = None
        self._held_off = False

    @property
    def known(self) -> bool:
        """Has there been a session at all?"""
        return self._identity is not None

    @property
    def identity(self) -> tuple[int, bytes]:
        """Session id and password; known once connected."""
        assert self._identity is not None
        return self._identity

    def check_ours(self, session_id: int | None) -> None:
        """Refuse to open or continue any session but the first. Raises kazoo's SessionExpiredError."""
        if self._identity is not None and session_id != self._identity[0]:
            self.over = True
            raise SessionExpiredError("this client is bound to one session")

    def connected_as(self, session_id: int, password: bytes, timeout_seconds: float) -> None:
        self.check_ours(session_id)
        if self._held_off:
            raise ConnectionDropped("kept off until the loop speaks")
        if self._identity is None:
            self._identity = (session_id, password)
            self.negotiated_seconds = timeout_seconds
        # Servers may differ in their bounds; the shortest answer is the safe one.
        self.negotiated_seconds = min(self.negotiated_seconds, timeout_seconds)
        self.connection_number += 1

    def may_connect(self) -> bool:
        return not self.over and not self._held_off

    # --- from any thread --------------------------------------------------------------------------

    def call(self, request: Any, crossing: Crossing) -> None:
        self._call(request, crossing)

    def hold_off(self) -> None:
        """Cut the connection and stay away until `let_in`; the session goes on ageing."""
        self._held_off = True
        self.cut()

    def let_in(self) -> None:
        self._held_off = False

    def cut(self) -> None:
        """Break the TCP connection; kazoo makes a new one."""
        connection = self._connection._socket
        if connection is not None:
            with contextlib.suppress(OSError):
                # On the descriptor itself: TLS would try to say farewell.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
