"""The command of `bench_commands`: as many steps as one asks for, none of which does anything."""

from __future__ import annotations

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
        return [NoStep(f"step-{number}") for number in range(self.arguments.steps)]


class NoStep(Step):
    """Not idempotent: its intention is committed before it is acted, and its result after."""

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]

    async def act(self, context: StepContext) -> Json:
        return {}
