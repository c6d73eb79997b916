"""A command whose steps a test spells out, and the record of what they did to the world.

A step is written `kind:name`: `safe` is idempotent, `probed` can be found out, `blind` cannot.
Further marks follow a `@host` or say what act does the first time: `!refuse`, `!lose` (the reply, after
the effect), `!late` (no reply, and the effect comes when the test says), `!hang`, `!back` (to the first
step); a step that is `!stuck` cannot be undone.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from engine.plugin import (
    NOT_HAPPENED,
    Child,
    Command,
    Conflict,
    Entity,
    GoBack,
    Happened,
    HostId,
    HostRefused,
    HostUnreachable,
    Json,
    LockKeys,
    OutcomeUnknown,
    Probed,
    Rows,
    Step,
    StepContext,
    argument,
    identifier,
    listing,
    text,
)

Boundary = Callable[[str, str], Awaitable[None]]


@dataclass
class World:
    """What commands did, in order. `boundary(where, step)` is awaited at each place of interest."""

    effects: list[tuple[str, str]] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    reverted: list[str] = field(default_factory=list)
    acted: int = 0
    operations: dict[str, str] = field(default_factory=dict)
    unreachable: set[str] = field(default_factory=set)
    hidden: bool = False
    boundary: Boundary | None = None

    async def at(self, where: str, step: str) -> None:
        if self.boundary is not None:
            await self.boundary(where, step)

    def count(self, step: str) -> int:
        return Counter(name for name, _ in self.effects)[step]


WORLDS: dict[str, World] = {}
_SPELLED = re.compile(r"(safe|probed|blind|children):(\w+)(?:@([\w-]+))?(?:!(\w+))?")


@dataclass(frozen=True, slots=True)
class ScriptArguments:
    world: str = argument(identifier)
    steps: tuple[str, ...] = argument(listing(text))
    about: str = argument(identifier, default="thing-1")
    valid: str = argument(text, default="yes")


class Script(Command):
    arguments_type = ScriptArguments
    arguments: ScriptArguments

    def entity(self) -> Entity:
        return Entity("vm", self.arguments.about)

    def locks(self) -> LockKeys:
        return LockKeys(exclusive=frozenset({f"vm:{self.arguments.about}"}))

    async def validate(self, rows: Rows) -> None:
        if self.arguments.valid != "yes":
            raise Conflict(self.arguments.valid)

    def steps(self) -> Sequence[Step]:
        return [_step(self.arguments, spelled) for spelled in self.arguments.steps]


class _Scripted(Step):
    timeout_seconds = 0.5
    probe_seconds = 1.0
    name = ""

    def __init__(self, arguments: ScriptArguments, name: str, host: str | None, trouble: str | None) -> None:
        self.name = name  # type: ignore[misc]
        self._host = host
        self._trouble = trouble
        self._first = arguments.steps[0].partition(":")[2].partition("@")[0].partition("!")[0]
        self._world = WORLDS[arguments.world]
        self._arguments = arguments

    async def on_host(self, context: StepContext, rows: Rows) -> HostId | None:
        return HostId(self._host) if self._host else None

    async def intend(self, context: StepContext, rows: Rows) -> None:
        await self._world.at("before_intent", self.name)

    async def act(self, context: StepContext) -> Json:
        world = self._world
        world.acted += 1
        await world.at("after_intent", self.name)
        if self._host in world.unreachable:
            raise HostUnreachable(f"{self._host} is away")
        if self._trouble == "back" and context.attempt == 1:
            raise GoBack(self._first, "not this way")
        if self._trouble == "refuse":
            raise HostRefused(7, "no")
        if self._trouble == "late" and world.acted == 1:
            raise OutcomeUnknown("no reply")
        world.effects.append((self.name, context.operation_id))
        world.operations[context.operation_id] = self.name
        await world.at("after_effect", self.name)
        if self._trouble == "lose" and world.count(self.name) == 1:
            raise OutcomeUnknown("the reply was lost")
        if self._trouble == "hang" and world.count(self.name) == 1:
            await asyncio.Event().wait()
        context.progress(50, "half")
        return {"did": self.name}

    async def record(self, context: StepContext, rows: Rows, result: Json) -> None:
        await self._world.at("before_result", self.name)
        await rows.event("script_step", self.name)

    async def compensate(self, context: StepContext) -> None:
        await self._world.at("before_undo", self.name)
        if self._trouble == "stuck":
            raise HostRefused(9, "it cannot be taken back")
        self._world.undone.append(self.name)

    async def revert(self, context: StepContext, rows: Rows) -> None:
        self._world.reverted.append(self.name)


class Safe(_Scripted):
    idempotent = True


class Blind(_Scripted):
    pass


class Probed_(_Scripted):  # noqa: N801
    async def probe(self, context: StepContext) -> Probed:
        await self._world.at("probe", self.name)
        if context.operation_id in self._world.operations:
            return Happened({"did": self.name})
        return NOT_HAPPENED


class Children(Safe):
    """Its name says how many: `children:three` runs as many as there are letters; each is one step."""

    async def children(self, context: StepContext, rows: Rows) -> Sequence[Child]:
        world = self._arguments.world
        return [
            Child("script", {"world": world, "about": f"{self.name}-{n}", "steps": [f"safe:{self.name}{n}"]})
            for n in range(3)
        ]

    async def act(self, context: StepContext) -> Json:
        await self._world.at("after_effect", self.name)
        return {"succeeded": sum(child.succeeded for child in context.children)}


_KINDS = {"safe": Safe, "probed": Probed_, "blind": Blind, "children": Children}


def _step(arguments: ScriptArguments, spelled: str) -> Step:
    found = _SPELLED.fullmatch(spelled)
    assert found is not None, spelled
    kind, name, host, trouble = found.groups()
    return _KINDS[kind](arguments, name, host, trouble)
