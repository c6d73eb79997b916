"""An engine that dies, or freezes, where a test wants it: the real service, its steps wrapped.

`python -m tests.cluster.mortal` is `engine.service` with every step of every command wrapped;
`--supervise` in front is `engine.supervisor` over that. A file `<command>.<step>.<boundary>` in the
directory ENGINE_TEST_DEATHS is a death that is to happen: the first engine that comes to the boundary
renames it and sends itself SIGKILL, or, where the file says `freeze`, SIGSTOP to its supervisor and
itself. ENGINE_TEST_HIDE=1: no operation id reaches a host, as real agents know none.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from engine import options
from engine.beat import Beat
from engine.commands.catalogue import Catalogue
from engine.commands.records import StepState
from engine.commands.services import Services
from engine.commands.transactions import Written
from engine.coordination.session import Session
from engine.db.groupcommit import GroupCommit
from engine.hosts.fleet import HostFleet
from engine.plugin import Command, Json, ShardId, Step, StepContext
from engine.service.parts import Parts
from engine.service.root import Service
from engine.service.work import command_services
from engine.supervisor import Supervisor

DEATHS = "ENGINE_TEST_DEATHS"
HIDE = "ENGINE_TEST_HIDE"
SWEEP_SECONDS = 2.0
BOUNDARIES = ("before_intent", "after_intent", "after_effect", "before_result", "after_result")

T = TypeVar("T")


class Deaths:
    """Those that a directory names."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def at(self, command: str, step: str, boundary: str) -> None:
        path = self._directory / f"{command}.{step}.{boundary}"
        try:
            how = path.read_text()
            path.rename(path.with_suffix(path.suffix + "-done"))
        except FileNotFoundError:
            return
        if how == "freeze":
            os.kill(os.getppid(), signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()


def mortal_step(step: Step, command: str, deaths: Deaths) -> Step:
    """`step` itself, its class replaced by one that looks for a death at each boundary."""
    kind: Any = type(step)

    class Mortal(kind):  # type: ignore[misc]
        sends = kind.sends

        async def intend(self, context: StepContext, rows: Any) -> None:
            deaths.at(command, self.name, "before_intent")
            await super().intend(context, rows)

        async def act(self, context: Any) -> Json:
            deaths.at(command, self.name, "after_intent")
            if os.environ.get(HIDE):
                context = dataclasses.replace(context, operation_id="")
            result: Json = await super().act(context)
            deaths.at(command, self.name, "after_effect")
            return result

        async def record(self, context: StepContext, rows: Any, result: Json) -> Json | None:
            kept: Json | None = await super().record(context, rows, result)
            deaths.at(command, self.name, "before_result")
            return kept

    step.__class__ = Mortal
    return step


class MortalCatalogue(Catalogue):
    def __init__(self, catalogue: Catalogue, deaths: Deaths) -> None:
        super().__init__(catalogue.types)
        self._deaths = deaths

    def build(self, type: str, values: Json) -> Command:
        command = super().build(type, values)
        steps = command.steps
        command.steps = lambda: [  # type: ignore[method-assign]
            mortal_step(step, type, self._deaths) for step in steps()
        ]
        return command


class MortalLedger(GroupCommit):
    """Dies when a step's result is committed, before anybody has heard."""

    def __init__(self, ledger: GroupCommit, deaths: Deaths) -> None:
        super().__init__(ledger._database)
        self._deaths = deaths

    async def commit(
        self, shard: ShardId, epoch: int, write: Callable[[Any], Awaitable[T]], **more: Any
    ) -> T:
        result = await super().commit(shard, epoch, write, **more)
        if isinstance(result, Written):
            for step in result.history.steps:
                if step.state is StepState.DONE:
                    self._deaths.at(result.history.command.type, step.name, "after_result")
        return result


def mortal_services(parts: Parts, session: Session, fleet: HostFleet, incarnation: int) -> Services:
    services = command_services(parts, session, fleet, incarnation)
    deaths = Deaths(Path(os.environ[DEATHS]))
    return dataclasses.replace(
        services,
        catalogue=MortalCatalogue(services.catalogue, deaths),
        ledger=MortalLedger(services.ledger, deaths),
        settings=dataclasses.replace(services.settings, sweep_seconds=SWEEP_SECONDS),
    )


class QuickSupervisor(Supervisor):
    """Starts again at once, however often its child has died."""

    def _sleep(self, seconds: float) -> bool:
        return super()._sleep(min(seconds, 0.2))


async def _serve(files: list[str], supervisor_fd: int | None) -> None:
    conf = options.load(files)
    beat = Beat(supervisor_fd, grace_seconds=conf.coordination.timeout_seconds / 2)
    service = Service(conf, beat, services=mortal_services)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, service.stopping.set)
    beating = asyncio.create_task(beat.run(), name="beat")
    try:
        await service.run()
    finally:
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating


def main() -> int:
    if sys.argv[1] == "--supervise":
        return QuickSupervisor([sys.executable, "-m", "tests.cluster.mortal", *sys.argv[2:]]).run()
    parser = argparse.ArgumentParser()
    parser.add_argument("--config-file", action="append", default=[])
    parser.add_argument("--supervisor-fd", type=int)
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.config_file, arguments.supervisor_fd))
    return 0


if __name__ == "__main__":
    sys.exit(main())
