"""The command of `bench_commands`: as many steps as one asks for, none of which does anything."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from engine.plugin import (
    Command,
    Entity,
    Json,
    LockKeys,
    Step,
    StepContext,
    argument,
    boolean,
    identifier,
    integer,
)

THREE_STEPS = {"steps": 3}


@dataclass(frozen=True, slots=True)
class NoopArguments:
    about: str = argument(identifier, help="what it is about; it is not looked for")
    steps: int = argument(integer(0, 100), default=0)
    locked: bool = argument(boolean, default=True)
    seconds: int = argument(integer(0, 86_400), default=0, help="how long each step takes")


class Noop(Command):
    arguments_type = NoopArguments
    arguments: NoopArguments
    description = "Does nothing, durably"

    def entity(self) -> Entity:
        return Entity("vm", self.arguments.about)

    def locks(self) -> LockKeys:
        key = f"vm:{self.arguments.about}"
        return LockKeys(exclusive=frozenset({key} if self.arguments.locked else ()))

    def steps(self) -> Sequence[Step]:
        kind = LongStep if self.arguments.seconds else NoStep
        return [kind(f"step-{n}", self.arguments.seconds) for n in range(self.arguments.steps)]


class NoStep(Step):
    """Not idempotent: its intention is committed before it is acted, and its result after."""

    def __init__(self, name: str, seconds: float) -> None:
        self.name = name  # type: ignore[misc]
        self.timeout_seconds = seconds + 60.0  # type: ignore[misc]
        self._seconds = seconds

    async def act(self, context: StepContext) -> Json:
        if self._seconds:
            await asyncio.sleep(self._seconds)
        return {}


class LongStep(NoStep):
    """An heir begins it again."""

    idempotent = True
