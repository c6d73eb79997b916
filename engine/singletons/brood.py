"""The tasks that a singleton starts: known as its own, so that none outlives it and none ends the engine.

Tasks inherit the context in which they are started, and the plugin runs in one that bears its `Brood`.
Of the tasks made there, those that its own code made are its own; what the engine or a library starts
on the way (a pool's connection, a flush for several callers) is not, and left alone.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections.abc import Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from pathlib import Path
from types import TracebackType
from typing import Any

import engine

_ENGINE = str(Path(engine.__file__).parent) + "/"
_BROOD: ContextVar[Brood | None] = ContextVar("engine_singleton_brood", default=None)


class PluginExited(Exception):
    """A task of a plugin called sys.exit(), or raised KeyboardInterrupt, which would end the loop."""


class Brood:
    """Of one run of a plugin, whose class is `kind`."""

    def __init__(self, kind: type) -> None:
        self._home = _home_of(kind)
        self._tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()

    def context(self) -> Context:
        """Where the plugin is to run."""
        context = copy_context()
        context.run(_BROOD.set, self)
        return context

    def left(self) -> list[asyncio.Task[Any]]:
        """Those that have not ended."""
        return [task for task in self._tasks if not task.done()]

    def adopt(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)

    def made(self) -> bool:
        """Whether the code that is making a task now is the plugin's."""
        frame = sys._getframe(2)
        while frame is not None:
            file = frame.f_code.co_filename
            if file.startswith(self._home):
                return True
            if file.startswith(_ENGINE):
                return False
            frame = frame.f_back  # type: ignore[assignment]
        return False


def know_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Have this loop attribute tasks from now on."""
    if loop.get_task_factory() is None:
        loop.set_task_factory(_make)


def _make(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
    **options: Any,
) -> asyncio.Task[Any]:
    context: Context | None = options.get("context")
    brood = context.get(_BROOD) if context is not None else _BROOD.get()
    if brood is None or not brood.made():
        return asyncio.Task(coroutine, loop=loop, **options)
    task = asyncio.Task(_Contained(coroutine), loop=loop, **options)
    brood.adopt(task)
    return task


class _Contained(Coroutine[Any, Any, Any]):
    """The same coroutine, but that what would end the loop is an error as any other."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def send(self, value: Any) -> Any:
        try:
            return self._inner.send(value)
        except (SystemExit, KeyboardInterrupt) as error:
            raise PluginExited(f"{type(error).__name__}: {error}") from error

    def throw(
        self,
        kind: Any,
        value: BaseException | object = None,
        traceback: TracebackType | None = None,
    ) -> Any:
        try:
            return self._inner.throw(kind if value is None else value)
        except (SystemExit, KeyboardInterrupt) as error:
            raise PluginExited(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise TypeError("it is for a task to run")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _home_of(kind: type) -> str:
    """The directory of the package that has the class, else its file."""
    top = sys.modules.get(kind.__module__.partition(".")[0])
    if top is not None and getattr(top, "__path__", None) and getattr(top, "__file__", None):
        return str(Path(str(top.__file__)).parent) + "/"
    return str(getattr(sys.modules.get(kind.__module__), "__file__", None) or f"<{kind.__module__}>")
