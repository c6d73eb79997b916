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
from collections.abc import Callable
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionDropped, SessionExpiredError
from kazoo.retry import KazooRetry
from kazoo.security import CREATOR_ALL_ACL, OPEN_ACL_UNSAFE

from engine.coordination.connection import Connection, Crossing, Handler

_RETRY_DELAY_SECONDS = 0.05
_ATTEMPTS_PER_TIMEOUT = 4
_RETRY_MAX_SECONDS = 0.7  # kazoo adds up to 40 % of jitter: one second at most


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
        handler = Handler()
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
        self._connection: Any = Connection(self, self._conn_retry.copy(), logger=logger)
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

    def _session_callback(self, state: str) -> None:
        self._connection.fallen()
        super()._session_callback(state)

    def may_connect(self) -> bool:
        return not self.over and not self._held_off

    # --- from any thread --------------------------------------------------------------------------

    def call(self, request: Any, crossing: Crossing) -> None:
        """Only ever from one thread, so that requests leave in the order in which they were made."""
        if not self._connection.send_now(request, crossing):
            self.enqueue(request, crossing)

    def enqueue(self, request: Any, crossing: Crossing | None) -> None:
        """For kazoo's thread to send."""
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
