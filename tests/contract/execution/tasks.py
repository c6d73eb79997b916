"""Tasks that tell what became of them: each line of the witness file is `<what> <engine> <id>`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oslo_config import cfg

from engine.execution.catalogue import Catalogue, LoadedTask
from engine.plugin import Conflict, Task, TaskContext, argument, boolean, integer, text


@dataclass(frozen=True, slots=True)
class WorkArguments:
    id: str = argument(text)
    file: str = argument(text, help="the witness")
    wait: bool = argument(boolean, default=False, help="until the file `<witness>.go` is there")


@dataclass(frozen=True, slots=True)
class Done:
    engine: str
    id: str


class Work(Task):
    """Leaves its mark before it waits, and another one when it is cancelled. At most once."""

    arguments_type = WorkArguments
    result_type = Done
    timeout_seconds = 10.0

    async def run(self, context: TaskContext, arguments: WorkArguments) -> Done:
        context.authority.check()
        witness = Path(arguments.file)
        say(witness, "began", context.engine, arguments.id)
        try:
            while arguments.wait and not witness.with_suffix(".go").exists():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            say(witness, "cancelled", context.engine, arguments.id)
            raise
        say(witness, "ended", context.engine, arguments.id)
        return Done(context.engine, arguments.id)


class Again(Work):
    """The same, but calling it twice does no harm."""

    idempotent = True


class Whose(Task):
    result_type = str
    idempotent = True

    async def run(self, context: TaskContext, arguments: Any) -> str:
        return context.engine


@dataclass(frozen=True, slots=True)
class NapArguments:
    ms: int = argument(integer(0, 10_000))


class Nap(Task):
    arguments_type = NapArguments

    async def run(self, context: TaskContext, arguments: NapArguments) -> None:
        await asyncio.sleep(arguments.ms / 1000)


@dataclass(frozen=True, slots=True)
class SizeArguments:
    bytes: int = argument(integer(0, 10_000_000), default=10)
    ballast: str = argument(str, default="")


class Letters(Task):
    arguments_type = SizeArguments
    result_type = str

    async def run(self, context: TaskContext, arguments: SizeArguments) -> str:
        return "x" * arguments.bytes


class Refuses(Task):
    async def run(self, context: TaskContext, arguments: Any) -> None:
        raise Conflict("it is not to be done")


class Breaks(Task):
    async def run(self, context: TaskContext, arguments: Any) -> None:
        raise RuntimeError("a mistake")


class Exits(Task):
    async def run(self, context: TaskContext, arguments: Any) -> None:
        raise SystemExit(3)


class Unspeakable(Task):
    async def run(self, context: TaskContext, arguments: Any) -> object:
        return object()


class Configured(Task):
    options = (cfg.IntOpt("depth", default=3, help="How deep."),)
    result_type = int

    async def run(self, context: TaskContext, arguments: Any) -> int:
        return int(context.options["depth"])


KINDS: Mapping[str, type[Task]] = {
    kind.__name__.lower(): kind
    for kind in (Work, Again, Whose, Nap, Letters, Refuses, Breaks, Exits, Unspeakable, Configured)
}


def catalogue() -> Catalogue:
    return Catalogue(LoadedTask(name, kind, {"depth": 5}) for name, kind in KINDS.items())


def say(witness: Path, what: str, engine: str, id: str) -> None:
    """One write to the end of the file, so that lines of several processes do not mix."""
    file = os.open(witness, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, f"{what} {engine} {id}\n".encode())
    finally:
        os.close(file)


def said(witness: Path) -> list[str]:
    return witness.read_text().splitlines() if witness.exists() else []
