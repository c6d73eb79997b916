"""kazoo's verbs for a lock: acquire, release, contenders, and the context manager.

Over the same protocol as `Locks.acquire`, for those who are used to them. Unlike `acquire`, nothing here
cancels anybody: watch `fence.lost`.
"""

from __future__ import annotations

from datetime import timedelta
from types import TracebackType
from typing import Protocol

from engine.errors import Conflict, InvalidInput
from engine.locks.fence import Fence
from engine.locks.holds import AlreadyHeld, HoldView, LockRefused
from engine.locks.keys import FOREVER, Key, Wanted
from engine.locks.taking import Wait


class Keeper(Protocol):
    """What a lock needs of `Locks`."""

    async def take(self, wanted: Wanted, *, wait: Wait, reason: str, user: str) -> Fence: ...

    async def give_back(self, fence: Fence) -> None: ...

    async def holders(self) -> list[HoldView]: ...

    async def waiters(self, key: Key) -> list[str]: ...


class Lock:
    """kazoo's verbs over the same protocol. Made by `Locks.lock`; holds once at a time."""

    def __init__(self, locks: Keeper, wanted: Wanted, *, reason: str, user: str) -> None:
        self._locks = locks
        self._wanted = wanted
        self._reason = reason
        self._user = user
        self.fence: Fence | None = None

    @property
    def is_acquired(self) -> bool:
        """Unlike kazoo's, this becomes false when the authority ends."""
        return self.fence is not None and not self.fence.lost.is_set()

    async def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """True when acquired; False when not `blocking` and somebody else has it.

        `timeout` is in seconds; when it has passed `LockRefused` is raised (kazoo: LockTimeout).
        """
        if self.is_acquired:
            raise Conflict("this lock object holds already: locks are not reentrant")
        if not blocking and timeout is not None:
            raise InvalidInput("a timeout is for a blocking acquire", fields={"timeout": "needs blocking"})
        wait: Wait = None
        if blocking:
            wait = FOREVER if timeout is None else timedelta(seconds=timeout)
        try:
            self.fence = await self._locks.take(self._wanted, wait=wait, reason=self._reason, user=self._user)
        except AlreadyHeld:
            raise
        except LockRefused:
            if blocking:
                raise
            return False
        return True

    async def release(self) -> bool:
        """False when it was not held (any more)."""
        fence, self.fence = self.fence, None
        if fence is None:
            return False
        held = not fence.lost.is_set()
        await self._locks.give_back(fence)
        return held

    async def contenders(self) -> list[str]:
        """The engines that hold a key of these, then those that wait for one, each line in its order."""
        wanted = self._wanted.modes
        holding = [
            view.engine for view in await self._locks.holders() if not wanted.keys().isdisjoint(view.modes)
        ]
        waiting = [engine for key in wanted for engine in await self._locks.waiters(key)]
        return holding + waiting

    async def __aenter__(self) -> Fence:
        await self.acquire()
        assert self.fence is not None
        return self.fence

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()
