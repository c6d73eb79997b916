"""kazoo behind a wall: requests go in, futures and calls in the loop come out.

The channel owns the tamed client, its threads and the watchdog. It fails fast while disconnected,
tells a lost reply from a request that never left, and translates kazoo's exceptions, which nobody
beyond this package sees (the few that are answers, such as NoNodeError, pass to `session`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from kazoo.exceptions import (
    AuthFailedError,
    ConnectionClosedError,
    ConnectionLoss,
    KazooException,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    SessionExpiredError,
    UnimplementedError,
)
from kazoo.protocol.states import KazooState, KeeperState

from engine.coordination.closing import close_session
from engine.coordination.connection import Crossing
from engine.coordination.identity import SessionIdentity, TlsSettings
from engine.coordination.mailbox import Mailbox
from engine.coordination.settings import SessionSettings
from engine.coordination.tamed import TamedClient
from engine.coordination.watchdog import Watchdog
from engine.errors import AuthorityLost, EngineError, InvalidInput, OutcomeUnknown, Unavailable

_CLOSE_SECONDS = 2.0
_FAREWELL_SECONDS = 1.0
_ANSWERS: tuple[type[BaseException], ...] = (NoNodeError, NodeExistsError)


class SessionEnded(AuthorityLost):
    """The ZooKeeper session is over; open a new one."""


class Channel:
    """One session's connection. `on_event(type, path)`, `on_change(connected)` and `on_over(why)`
    are called in the loop."""

    def __init__(
        self,
        settings: SessionSettings,
        *,
        on_event: Callable[[int, str], None],
        on_change: Callable[[bool], None],
        on_over: Callable[[str], None],
        logger: logging.Logger,
    ) -> None:
        if "/" in settings.hosts:
            raise InvalidInput("the ZooKeeper hosts may not carry a chroot; set the cluster's name instead")
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._mailbox = Mailbox(self._loop)
        self._on_change = on_change
        self._on_over = on_over
        self._connected_once: asyncio.Future[None] = self._loop.create_future()
        self._closing = False
        self._waiting: set[Crossing] = set()
        self.client = TamedClient(
            settings.hosts,
            settings.timeout_seconds,
            on_event=lambda kind, path: self.post(on_event, kind, path),
            logger=logger.getChild("kazoo"),
            digest=settings.digest,
            tls=_kazoo_tls(settings.tls),
        )
        self.client.add_listener(lambda state: self._mailbox.post(self._changed, state))
        self._watchdog = Watchdog(self.client)

    @property
    def connected(self) -> bool:
        """At this instant: kazoo's thread clears it before anybody is told."""
        return bool(self.client.connected) and not self._closing

    @property
    def identity(self) -> SessionIdentity:
        session_id, password = self.client.identity
        return SessionIdentity(session_id, password, self.client.negotiated_seconds)

    async def open(self) -> None:
        """Connect. Raises `Unavailable` when no server answers within `connect_seconds`."""
        self.client.start_async()
        try:
            async with asyncio.timeout(self._settings.connect_seconds):
                await self._connected_once
        except TimeoutError:
            raise Unavailable(
                f"no ZooKeeper server answered at {self._settings.hosts} "
                f"within {self._settings.connect_seconds:g} s"
            ) from None
        self._watchdog.start(self.client.negotiated_seconds)

    async def close(self) -> None:
        """Close the session, so that its ephemeral nodes vanish, and stop all threads."""
        self._closing = True
        self._watchdog.stop()
        orderly = self.client.connected
        stopping = self._loop.create_task(asyncio.to_thread(self._stop, orderly), name="session-close")
        # A server that does not answer the farewell must not keep us.
        impatience = self._loop.call_later(_CLOSE_SECONDS, self.client.cut)
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            await stopping
            raise
        finally:
            impatience.cancel()

    async def ask(self, request: Any, *, write: bool = False) -> Any:
        """Send `request` and return its answer."""
        return await self.send(request, write=write)

    def send(
        self, request: Any, *, write: bool = False, interpret: Callable[[Any], Any] | None = None
    ) -> asyncio.Future[Any]:
        """Hand `request` over; the future has its answer, as `interpret` returns or raises it."""
        if self.client.over or self._closing:
            raise SessionEnded("the ZooKeeper session is over")
        if not self.client.connected:
            raise Unavailable("not connected to ZooKeeper")
        answer: asyncio.Future[Any] = self._loop.create_future()

        def deliver(value: Any, error: BaseException | None, sent: bool) -> None:
            self._waiting.discard(crossing)
            if answer.done():  # nobody waits any more, or kazoo reports one failure twice
                return
            if error is None:
                try:
                    answer.set_result(value if interpret is None else interpret(value))
                except EngineError as refused:
                    answer.set_exception(refused)
            else:
                answer.set_exception(_translated(error, lost=sent and write))

        crossing = Crossing(self._mailbox, self.client.connection_number, deliver)
        self._waiting.add(crossing)
        self.client.call(request, crossing)
        return answer

    def post(self, call: Callable[..., None], *arguments: Any) -> None:
        self._mailbox.post(call, *arguments)

    def cut(self) -> None:
        """Break the connection; another server is tried next."""
        self.client.cut()

    def silence(self) -> None:
        """Send nothing more, not even pings, so that the session expires if it is not closed."""
        self.client.over = True
        self.client.cut()

    def _stop(self, orderly: bool) -> None:
        self.client.stop()
        self.client.close()
        if not orderly and self.client.known and not self.client.expired:
            # kazoo says no farewell while disconnected; perhaps another server can be reached.
            with contextlib.suppress(Unavailable):
                close_session(
                    self._settings.hosts,
                    self.identity,
                    tls=self._settings.tls,
                    timeout_seconds=_FAREWELL_SECONDS,
                )

    def _changed(self, state: str) -> None:
        # kazoo forgets a request that was queued just as it emptied its queues.
        for crossing in list(self._waiting):
            if not self.client.connected or crossing.connection != self.client.connection_number:
                crossing.forgotten()
        if state == KazooState.CONNECTED:
            if not self._connected_once.done():
                self._connected_once.set_result(None)
            self._on_change(True)
        elif state == KazooState.SUSPENDED:
            self._on_change(False)
        elif not self._closing:
            self._lost()

    def _lost(self) -> None:
        if self.client.client_state == KeeperState.AUTH_FAILED:
            error: Exception = InvalidInput("ZooKeeper refused the credentials (digest)")
        else:
            error = SessionEnded("the ZooKeeper session has expired")
        self.client.over = True
        if not self._connected_once.done():
            self._connected_once.set_exception(error)
        self._on_over(str(error))


def _translated(error: BaseException, *, lost: bool) -> BaseException:
    if isinstance(error, _ANSWERS):
        return error
    if isinstance(error, ConnectionLoss):
        if lost:
            return OutcomeUnknown("the connection to ZooKeeper broke before the reply")
        return Unavailable("the connection to ZooKeeper broke")
    if isinstance(error, (SessionExpiredError, ConnectionClosedError)):
        return SessionEnded("the ZooKeeper session is over")
    if isinstance(error, (NoAuthError, AuthFailedError)):
        return InvalidInput("ZooKeeper refused the credentials (digest) for this node")
    if isinstance(error, UnimplementedError):
        return InvalidInput("this ZooKeeper server is older than 3.6")
    if isinstance(error, KazooException):
        return Unavailable(f"ZooKeeper answered with {type(error).__name__}")
    return error


def _kazoo_tls(tls: TlsSettings | None) -> dict[str, Any]:
    if tls is None:
        return {}
    return {
        "use_ssl": True,
        "ca": tls.ca_file,
        "certfile": tls.cert_file,
        "keyfile": tls.key_file,
        "verify_certs": tls.verify,
        "check_hostname": tls.verify,
    }
