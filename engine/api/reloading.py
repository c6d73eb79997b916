"""Has every API worker of the cluster start anew: one node in ZooKeeper, which each of them watches.

A worker that sees it set ends as at SIGTERM, in its own moment, and gunicorn starts another, which reads what
is installed then. The socket is gunicorn's and stays open meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Callable

import orjson

from engine.clock import utcnow
from engine.coordination.session import Session

SPREAD_SECONDS = 1.5


def end_this_worker() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


async def ask_for_reload(session: Session) -> None:
    """Raises `Unavailable`."""
    await session.ensure(session.paths.reload)
    await session.set(session.paths.reload, orjson.dumps({"at": utcnow()}))


@contextlib.asynccontextmanager
async def heeding_reloads(
    session: Session, *, end: Callable[[], None] = end_this_worker, spread_seconds: float = SPREAD_SECONDS
) -> AsyncIterator[None]:
    """`end` this worker some moment after the next time that a reload is asked for."""
    await session.ensure(session.paths.reload)
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []

    def asked(_changed: object) -> None:
        if not timers:
            timers.append(loop.call_later(random.uniform(0, spread_seconds), end))

    async with session.replica(session.paths.reload) as replica:
        unsubscribe = replica.subscribe(asked)
        try:
            yield
        finally:
            unsubscribe()
