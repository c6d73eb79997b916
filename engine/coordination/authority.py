"""Until when this engine may act: a lease that only answered writes renew.

The deadline is the moment at which the last answered write was *sent*, plus the negotiated session
timeout, less one server tick, one heartbeat interval and 1 %, on CLOCK_BOOTTIME. So it passes
before any server can expire the session, also when the server that answers our reads is cut off
from its leader. Nothing here waits for ZooKeeper to say that the session is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from engine.clock import boottime
from engine.errors import AuthorityLost, InvalidInput

_DRIFT = 0.01


def lease_seconds(timeout_seconds: float, tick_seconds: float, beat_seconds: float) -> float:
    """How long one answered write carries, from its sending."""
    return timeout_seconds * (1 - _DRIFT) - tick_seconds - beat_seconds


class SessionAuthority:
    """The authority of one session; used in the loop's thread only.

    `connected` tells whether the connection stands at this instant: while it does not, `check`
    refuses, though the lease may still run and `lost` is not set.
    """

    def __init__(
        self,
        *,
        lease: Callable[[], float],
        connected: Callable[[], bool],
        on_lost: Callable[[str], None] = lambda why: None,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._lease = lease
        self._connected = connected
        self._on_lost = on_lost
        self._clock = clock
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._why = "it has not begun"
        self.lost = asyncio.Event()

    @property
    def deadline(self) -> float:
        """On CLOCK_BOOTTIME; 0 before authority has begun."""
        return self._deadline or 0.0

    @property
    def begun(self) -> bool:
        return self._deadline is not None

    def remaining_seconds(self) -> float:
        """0 or less once it is over, or has not begun."""
        if self._deadline is None or self.lost.is_set():
            return 0.0
        return self._deadline - self._clock()

    def check(self) -> None:
        """Return if acting is allowed at this instant; else raise `AuthorityLost`."""
        if self._deadline is None or self.lost.is_set():
            raise AuthorityLost(f"no authority: {self._why}")
        if self._clock() >= self._deadline:
            self.end("no write was answered in time")
            raise AuthorityLost(f"no authority: {self._why}")
        if not self._connected():
            raise AuthorityLost("no authority while the connection to ZooKeeper is down")

    def begin(self, sent_at: float) -> None:
        """The member node is held, proven by a write sent at `sent_at`."""
        if self._lease() <= 0:
            raise InvalidInput("the session timeout is too short for the server's tick: no authority is left")
        self._deadline = sent_at + self._lease()
        self._arm()

    def renew(self, sent_at: float) -> None:
        """A write that was sent at `sent_at` has been answered."""
        if self._deadline is not None and not self.lost.is_set():
            # Also when the old deadline has just passed unseen: the answer proves that the session
            # lived all along. Answers may arrive out of order of sending only never backwards.
            self._deadline = max(self._deadline, sent_at + self._lease())
            self._arm()

    def end(self, why: str) -> None:
        """Authority is over for good."""
        if not self.lost.is_set():
            self._why = why
            self.lost.set()
            self._disarm()
            self._on_lost(why)

    @contextlib.asynccontextmanager
    async def scope(self) -> AsyncIterator[None]:
        """Cancel the body when authority is lost, and raise `AuthorityLost` in its place."""
        self.check()
        async with cancelled_by(self.lost, lambda: f"no authority: {self._why}"):
            yield

    def _arm(self) -> None:
        self._disarm()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, self.remaining_seconds()), self._due)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        if self.remaining_seconds() <= 0:
            self.end("no write was answered in time")
        else:  # the loop's clock and CLOCK_BOOTTIME need not agree to the microsecond
            self._arm()


@contextlib.asynccontextmanager
async def cancelled_by(lost: asyncio.Event, why: Callable[[], str]) -> AsyncIterator[None]:
    """Cancel the body when `lost` is set, and raise `AuthorityLost(why())` in its place."""
    body = asyncio.current_task()
    assert body is not None
    cancelled = False

    async def guard() -> None:
        nonlocal cancelled
        await lost.wait()
        cancelled = True
        body.cancel()

    guarding = asyncio.create_task(guard(), name="authority-scope")
    try:
        yield
    except asyncio.CancelledError:
        # More requests than ours mean that somebody else cancels the body too: that one wins.
        if cancelled and body.uncancel() == 0:
            raise AuthorityLost(why()) from None
        raise
    except BaseException:
        if cancelled:  # what came of it in the body, as a group of errors; nobody else takes it back
            body.uncancel()
        raise
    finally:
        guarding.cancel()
    if cancelled:  # the body ended just before the cancellation could reach it
        body.uncancel()
        raise AuthorityLost(why())
