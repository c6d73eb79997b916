"""The contract suite of tasks, for their authors, and what one call of a task is given without a cluster.

    class TestMyTask(TaskContract):
        plugin = MyTask
        arguments = {"minutes": 5}   # those that have no defaults

Runs under any pytest, no fixtures and no cluster needed. It holds a task to what the engine counts on:
arguments and options that explain themselves, a result that can be carried, and a `run` that ends when it
is cancelled. A task that needs more than an empty context overrides `context`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec
from oslo_config import cfg

from engine import arguments as argument_types
from engine.clock import utcnow
from engine.errors import HostUnreachable, NotFound
from engine.plugin import (
    CONTRACT_VERSION,
    Activity,
    EngineId,
    EntityReader,
    HostConnection,
    HostId,
    Json,
    Task,
    TaskContext,
)
from engine.testing.ledger import MemoryLedger
from engine.testing.maps import MemoryMaps
from engine.testing.singletons import SwitchedAuthority


@dataclass
class GivenView:
    """An `EngineView` that says what the test wants."""

    doing: list[Activity] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    hosts: dict[HostId, Json] = field(default_factory=dict)

    def activities(self) -> Sequence[Activity]:
        return self.doing

    def measures(self) -> Mapping[str, float]:
        return self.numbers

    def host(self, host_id: HostId) -> Json:
        if host_id not in self.hosts:
            raise NotFound(f"host {host_id} is not watched here")
        return self.hosts[host_id]


def task_context(
    task: type[Task],
    *,
    key: str | None = None,
    options: Mapping[str, Any] | None = None,
    reader: EntityReader | None = None,
    maps: MemoryMaps | None = None,
    view: GivenView | None = None,
    hosts: Mapping[HostId, HostConnection] | None = None,
) -> TaskContext:
    """`hosts`: the connections that this engine has, which are also what a visit finds."""
    connections = dict(hosts or {})

    def connection(host_id: HostId) -> HostConnection:
        if host_id not in connections:
            raise HostUnreachable(f"there is no connection to host {host_id}")
        return connections[host_id]

    @contextlib.asynccontextmanager
    async def visit(host_id: HostId) -> AsyncIterator[HostConnection]:
        yield connection(host_id)

    return TaskContext(
        engine=EngineId("test-engine"),
        key=key,
        authority=SwitchedAuthority(),
        options=_values(task, options or {}),
        now=utcnow,
        reader=reader or MemoryLedger().reader,
        maps=maps or MemoryMaps(),
        view=view or GivenView(),
        connection=connection,
        visit=visit,
    )


def _values(task: type[Task], given: Mapping[str, Any]) -> dict[str, Any]:
    conf = cfg.ConfigOpts()
    conf.register_opts(list(task.options), "plugin")
    for name, value in given.items():
        conf.set_override(name, value, "plugin")
    conf([])
    return {option.dest: conf["plugin"][option.dest] for option in task.options}


class TaskContract:
    """Subclass it as `Test...` and set `plugin`."""

    plugin: ClassVar[type[Task]]
    arguments: ClassVar[Mapping[str, Any]] = {}
    key: ClassVar[str | None] = None
    end_seconds: ClassVar[float] = 1.0
    """How long `run` may take to end after it was cancelled."""

    def context(self) -> TaskContext:
        return task_context(self.plugin, key=self.key)

    def test_states_the_contract_version_and_what_it_is_for(self) -> None:
        assert issubclass(self.plugin, Task), f"{self.plugin} is no Task"
        assert self.plugin.contract == CONTRACT_VERSION, f"it is written for contract {self.plugin.contract}"
        assert self.plugin.description.strip(), "it has no description"
        assert 0 < self.plugin.timeout_seconds <= 3600, "a call takes more than 0 and up to 3600 seconds"

    def test_every_option_says_what_it_is_for(self) -> None:
        silent = [option.name for option in self.plugin.options if not (option.help or "").strip()]
        assert not silent, f"options without help: {silent}"

    def test_its_arguments_are_a_frozen_dataclass_that_takes_these(self) -> None:
        kind = self.plugin.arguments_type
        assert dataclasses.is_dataclass(kind), f"{kind} is no dataclass"
        assert kind.__dataclass_params__.frozen, f"{kind} is not frozen"  # type: ignore[attr-defined]
        argument_types.parse(kind, self.arguments)

    def test_its_result_survives_the_way_to_the_caller(self) -> None:
        result = asyncio.run(self._run())
        carried = msgspec.json.decode(msgspec.json.encode(result), type=self.plugin.result_type)
        assert carried == result or self.plugin.result_type is Any, f"{result} arrives as {carried}"

    def test_ends_where_it_is_cancelled(self) -> None:
        asyncio.run(self._cancel())

    async def _run(self) -> Any:
        parsed: Any = argument_types.parse(self.plugin.arguments_type, self.arguments)
        async with asyncio.timeout(self.plugin.timeout_seconds):
            return await self.plugin().run(self.context(), parsed)

    async def _cancel(self) -> None:
        task = asyncio.create_task(self._run(), name="task under test")
        await asyncio.sleep(0)
        task.cancel()
        _, running = await asyncio.wait({task}, timeout=self.end_seconds)
        assert not running, f"it had not ended {self.end_seconds} s after it was cancelled"
