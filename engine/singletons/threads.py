"""Runs a singleton: in the loop, or where its `run` is a plain function in a thread of its own.

Cancelling cannot reach a thread, so this ends when the thread does: whoever cancels sets the leadership's
`stopping` first. The thread is a daemon since one that never looks at it must not keep a process that
is ending; it is waited for here all the same, by whoever awaits.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Awaitable, Callable

from engine.plugin import Leadership, Singleton


def runs_in_loop(kind: type[Singleton]) -> bool:
    """Whether its `run` is an `async def`; else it is for a thread."""
    return inspect.iscoroutinefunction(inspect.unwrap(kind.run))


async def run_singleton(made: Singleton, leadership: Leadership, *, name: str) -> None:
    """Its `run`, where it belongs. Raises what it raises."""
    if runs_in_loop(type(made)):
        running = made.run(leadership)
        assert running is not None
        await running
        return

    def work() -> None:
        if isinstance(running := made.run(leadership), Awaitable):
            raise TypeError(f"run() is no `async def`, and returned a {type(running).__name__}")

    await in_thread(work, name=name)


async def in_thread(work: Callable[[], None], *, name: str) -> None:
    """Return or raise as `work` does, also what is no Exception; if cancelled meanwhile, after it."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # a SystemExit too is for whoever awaits
            raised.append(error)
        finally:
            with contextlib.suppress(RuntimeError):  # abandoned, and the loop is closed
                loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=run, name=name, daemon=True).start()
    cancelled = False
    while not ended.is_set():
        try:
            await ended.wait()
        except asyncio.CancelledError:
            cancelled = True
    if raised:
        raise raised[0]
    if cancelled:
        raise asyncio.CancelledError
