"""What all simulated hosts of one process share: clocks, the log, TLS contexts, and running tasks.

Tasks are few: only a conversation with another host (a migration, fencing) is one. All of them end
with the site. Power is somebody else's: a fenced host may live in another process.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Literal, Self

from plugins.simulator.log import WitnessLog
from plugins.simulator.machines import Pace
from plugins.simulator.wheel import TimerWheel

Power = Literal["on", "off", "reboot", "status"]


class Site:
    """An async context manager. `power(port, action)` acts on any host of the simulation."""

    def __init__(
        self,
        *,
        log: WitnessLog,
        pace: Pace,
        power: Callable[[int, Power], Awaitable[dict[str, str]]],
        server_tls: ssl.SSLContext | None = None,
        client_tls: ssl.SSLContext | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.wheel = TimerWheel(self.loop)
        self.log = log
        self.pace = pace
        self.power = power
        self.server_tls = server_tls
        self.client_tls = client_tls
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.wheel.close()
        self.log.close()

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[None]:
        """Run `work` until it ends or the site does; its failure is reported, not lost."""
        task = self.loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.loop.call_exception_handler(
                {"message": f"task {task.get_name()!r} failed", "exception": error, "task": task}
            )
