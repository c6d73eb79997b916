"""The tasks of something that lives for a while: duties that go on until its end, and work in between.

Invariant: no task outlives the scope, and a duty that fails, or returns although it should not, ends the
scope loudly (it cancels the task that entered it, and leaving raises). Entered by the fleet, the executor
of commands and the scheduler, each of which ends its own work first and leaves the scope last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from types import TracebackType
from typing import Any, Self


class Scope:
    """An `asyncio.TaskGroup` that cancels its duties itself when it is left."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._duties: list[asyncio.Task[None]] = []
        self.open = False
        """Whether work may be started: from entering it until it is being left."""

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self.open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.open = False
        for duty in self._duties:
            duty.cancel()
        await self._group.__aexit__(kind, error, traceback)

    def keep(self, duty: Callable[[], Coroutine[Any, Any, None]], *, name: str) -> None:
        """Run `duty`, which goes on by itself, until the scope is left."""
        self._duties.append(self._group.create_task(self._for_good(duty, name), name=name))

    def start(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run `work`; leaving the scope waits for it."""
        return self._group.create_task(work, name=name)

    async def _for_good(self, duty: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        await duty()
        if self.open:
            raise RuntimeError(f"{name} has returned, and should have gone on")


async def ended(tasks: Collection[asyncio.Task[None]], *, seconds: float) -> None:
    """Wait until cancelled tasks have ended; for one that does not, no longer than `seconds`."""
    if tasks:
        await asyncio.wait(tasks, timeout=seconds)
