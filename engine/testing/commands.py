"""The contract suite of commands, for their authors:

    class TestMyCommand(CommandContract):
        plugin = MyCommand
        arguments = {"vm_id": "vm-1"}
        tables = {"vm": {"vm-1": {"id": "vm-1", "status": "up", "host_id": "host-1"}}}

Runs under any pytest; no cluster is needed. Entities are rows in memory and hosts record what they are asked
for. The command is carried out, then again with a crash at every boundary of every step: whoever resumes it
must not ask a host twice for what is not idempotent. A command with child commands is held to all but that.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from engine import arguments as vocabulary
from engine.clock import utcnow
from engine.errors import InvalidInput
from engine.plugin import (
    CONTRACT_VERSION,
    NOT_HAPPENED,
    ChildOutcome,
    Command,
    Happened,
    HostConnection,
    HostId,
    Json,
    Step,
)
from engine.testing.ledger import MemoryRows, Tables

_ENTITIES = ("host", "vm", "host_cluster")
_BOUNDARIES = ("before intent", "after intent", "after effect", "after result")


class RecordedHost:
    """A connection that answers every verb with nothing, and remembers which were called with which id."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def __getattr__(self, verb: str) -> Any:
        async def call(*_arguments: Any, operation_id: str = "", **_options: Any) -> None:
            self.calls.append((verb, operation_id))

        return call


@dataclass(slots=True)
class MemoryContext:
    """`engine.plugin.StepContext` for one intention of one step."""

    command: CommandContract
    host: Any
    operation_id: str
    data: dict[str, Json]
    host_id: HostId | None = None
    attempt: int = 1
    command_id: str = "command-1"
    user: str = "tester"
    children: Sequence[ChildOutcome] = ()
    now: datetime = field(default_factory=utcnow)

    def connection(self, host_id: HostId | None = None) -> HostConnection:
        connected: HostConnection = self.host
        return connected

    async def restart_agent(self) -> None:
        await self.host.restart_agent(operation_id=self.operation_id)

    def reveal(self, kept: str) -> str:
        return kept

    def progress(self, percent: int, message: str = "") -> None:
        assert 0 <= percent <= 100, f"progress of {percent} percent"


class CommandContract:
    """Subclass it as `Test...` and set `plugin`, `arguments` and the `tables` under which it may run."""

    plugin: ClassVar[type[Command]]
    arguments: ClassVar[Mapping[str, Any]]
    tables: ClassVar[Tables] = {}

    def host(self) -> Any:
        """What its steps are connected to. Replace it where they need answers."""
        return RecordedHost()

    def build(self) -> Command:
        return self.plugin(vocabulary.parse(self.plugin.arguments_type, self.arguments))

    # --- what a command is ---

    def test_states_the_contract_version_and_what_it_does(self) -> None:
        assert issubclass(self.plugin, Command), f"{self.plugin} is no Command"
        assert self.plugin.contract == CONTRACT_VERSION, f"it is written for contract {self.plugin.contract}"
        assert self.plugin.description, "its description is empty"

    def test_refuses_arguments_that_it_does_not_know(self) -> None:
        refused: Mapping[str, str] = {}
        try:
            vocabulary.parse(self.plugin.arguments_type, {**self.arguments, "no_such_argument": 1})
        except InvalidInput as error:
            refused = error.fields
        assert "no_such_argument" in refused, "an unknown argument was taken"

    def test_is_about_an_entity_and_locks_what_it_needs(self) -> None:
        command = self.build()
        assert command.entity().kind in _ENTITIES, f"there are {', '.join(_ENTITIES)}"
        keys = command.locks()
        assert keys.exclusive | keys.shared, "it locks nothing: two of them could run at the same time"
        assert keys == self.build().locks(), "its locks depend on more than its arguments"
        assert all(":" in key for key in keys.exclusive | keys.shared), "a lock is called <type>:<id>"

    def test_its_steps_have_names_of_their_own_and_are_the_same_each_time(self) -> None:
        names = [step.name for step in self.build().steps()]
        assert len(names) == len(set(names)) > 0, f"names of steps: {names}"
        again = [step.name for step in self.build().steps()]
        assert names == again, "its steps depend on more than its arguments"

    # --- what it does ---

    def test_is_valid_under_the_tables_given(self) -> None:
        asyncio.run(self.build().validate(MemoryRows(copy.deepcopy(self.tables))))

    def test_runs_from_its_first_step_to_its_last(self) -> None:
        host = self.host()
        asyncio.run(self._carry_out(host, crash=None))

    def test_a_crash_anywhere_sends_nothing_twice_that_is_not_idempotent(self) -> None:
        for number, step in enumerate(self.build().steps()):
            for boundary in _BOUNDARIES:
                host = self.host()
                asyncio.run(self._carry_out(host, crash=(number, boundary)))
                if isinstance(host, RecordedHost) and not step.idempotent:
                    sent = [verb for verb, _ in host.calls]
                    twice = {verb for verb in sent if sent.count(verb) > 1 and not verb.startswith("vm")}
                    assert not twice, f"a crash {boundary} of step {step.name}: {sorted(twice)} sent twice"

    def test_undoing_may_be_asked_for_twice(self) -> None:
        async def undo() -> None:
            rows = MemoryRows(copy.deepcopy(self.tables))
            for step in reversed(self.build().steps()):
                context = MemoryContext(self, self.host(), f"operation-{step.name}", {})
                for _ in range(2):
                    await step.compensate(context)
                    await step.revert(context, rows)

        asyncio.run(undo())

    async def _carry_out(self, host: Any, crash: tuple[int, str] | None) -> None:
        """As the executor does; a crash is a step begun anew by somebody who knows only what was written."""
        rows = MemoryRows(copy.deepcopy(self.tables))
        data: dict[str, Json] = {}
        for number, name in enumerate(step.name for step in self.build().steps()):
            boundary = crash[1] if crash is not None and crash[0] == number else None
            await self._run_step(number, name, host, rows, data, boundary)

    async def _run_step(
        self, number: int, name: str, host: Any, rows: MemoryRows, data: dict[str, Json], boundary: str | None
    ) -> None:
        step = self.build().steps()[number]
        context = MemoryContext(self, host, f"operation-{name}", data)
        context.host_id = await step.on_host(context, rows)
        await step.intend(context, rows)
        if await step.children(context, rows):
            assert step.idempotent, f"step {name} has children and is not idempotent"
            return
        if boundary in ("after intent", "after effect"):
            if boundary == "after effect":
                await step.act(context)
            result = await self._resumed(number, context)
            if result is None:  # an operator is needed: nothing was sent again
                return
        else:
            result = await step.act(context)
        data[name] = await step.record(context, rows, result) or result

    async def _resumed(self, number: int, context: MemoryContext) -> Json | None:
        """The step in other hands, who know its intent and not what became of it."""
        step: Step = self.build().steps()[number]
        if step.idempotent:
            return await step.act(context)
        found = await step.probe(context)
        if isinstance(found, Happened):
            return found.result
        return await step.act(context) if found is NOT_HAPPENED else None
