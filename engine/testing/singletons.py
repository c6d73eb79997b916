"""The contract suite of singletons, for their authors:

    class TestMyDuty(SingletonContract):
        plugin = MyDuty
        values = {"interval_seconds": 0.1}   # options that differ from their defaults

Runs under any pytest, no fixtures and no cluster needed. It holds a plugin to what the engine counts
on: options that explain themselves, a `run` that lasts, that ends promptly wherever it is cancelled,
that does nothing once its leadership is over, and that leaves no task behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar

from oslo_config import cfg

from engine.clock import utcnow
from engine.election.leadership import HeldLeadership
from engine.errors import AuthorityLost
from engine.plugin import CONTRACT_VERSION, EngineId, Leadership, PluginContext, Scope, Singleton
from engine.singletons.threads import run_singleton, runs_in_loop
from engine.testing.calls import MemoryCalls
from engine.testing.ledger import MemoryDesk, MemoryLedger
from engine.testing.maps import MemoryMaps


class SwitchedAuthority:
    """An authority that the test takes away: for a while (`suspended`), as a lost connection does."""

    def __init__(self) -> None:
        self.suspended = False

    def check(self) -> None:
        if self.suspended:
            raise AuthorityLost("suspended by the test")

    def remaining_seconds(self) -> float:
        return 0.0 if self.suspended else 10.0


def leadership(
    name: str = "test", *, token: int = 1, authority: SwitchedAuthority | None = None
) -> HeldLeadership:
    """A leadership that lasts until the test calls `end(reason)`."""
    return HeldLeadership(
        authority or SwitchedAuthority(), name=name, token=token, lost=asyncio.Event(), why=str
    )


@dataclass(slots=True)
class RecordedEvents:
    """An `EventLog` in memory. Whoever prunes or records under an ended leadership is found out."""

    recorded: list[tuple[str, str, dict[str, object]]] = field(default_factory=list)
    stored: list[datetime] = field(default_factory=list)
    calls: int = 0

    async def record(self, kind: str, message: str, **data: object) -> None:
        self.calls += 1
        self.recorded.append((kind, message, data))

    async def prune(self, *, older_than: datetime, limit: int, leadership: Leadership) -> int:
        self.calls += 1
        leadership.check()
        old = sorted(at for at in self.stored if at < older_than)[:limit]
        for at in old:
            self.stored.remove(at)
        return len(old)


def context(
    plugin: type[Singleton],
    values: Mapping[str, Any],
    events: RecordedEvents,
    *,
    ledger: MemoryLedger | None = None,
    commands: MemoryDesk | None = None,
    calls: MemoryCalls | None = None,
    maps: MemoryMaps | None = None,
    members: Mapping[EngineId, datetime] | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    now: Callable[[], datetime] = utcnow,
) -> PluginContext:
    """What the plugin is built with: its options' values over their defaults, converted as in the engine.

    `overrides`: what is set for the hosts of one host cluster, by its id. Without `members` the engine
    has been here alone for an hour.
    """
    conf = cfg.ConfigOpts()
    conf.register_opts(list(plugin.options), "plugin")
    for name, value in values.items():
        conf.set_override(name, value, "plugin")
    conf([])
    read = {option.dest: conf["plugin"][option.dest] for option in plugin.options}
    engine = EngineId("test-engine")
    here = members if members is not None else {engine: now() - timedelta(hours=1)}
    return PluginContext(
        engine=engine,
        options=read,
        events=events,
        ledger=ledger or MemoryLedger(),
        commands=commands or MemoryDesk(),
        calls=calls or MemoryCalls(members=sorted(here)),
        maps=maps or MemoryMaps(),
        now=now,
        members=lambda: here,
        overrides=lambda: overrides or {},
    )


class SingletonContract:
    """Subclass it as `Test...` and set `plugin`."""

    plugin: ClassVar[type[Singleton]]
    values: ClassVar[Mapping[str, Any]] = {}
    stop_seconds: ClassVar[float] = 1.0
    """How long `run` may take to end after it was cancelled; the engine abandons after 3 s."""
    settle_seconds: ClassVar[float] = 0.2
    """How long `run` is watched to see that it lasts."""

    def test_what_may_be_set_for_one_host_cluster_is_an_option_that_takes_effect_at_once(self) -> None:
        mutable = {option.dest for option in self.plugin.options if option.mutable}
        assert set(self.plugin.per_cluster) <= mutable, "see Singleton.per_cluster"

    def test_states_the_contract_version_and_a_scope(self) -> None:
        assert issubclass(self.plugin, Singleton), f"{self.plugin} is no Singleton"
        assert self.plugin.contract == CONTRACT_VERSION, f"it is written for contract {self.plugin.contract}"
        assert isinstance(self.plugin.scope, Scope), f"its scope is {self.plugin.scope!r}"

    def test_every_option_says_what_it_is_for(self) -> None:
        names = [option.dest for option in self.plugin.options]
        assert len(names) == len(set(names)), f"an option is declared twice: {names}"
        silent = [option.name for option in self.plugin.options if not (option.help or "").strip()]
        assert not silent, f"options without help: {silent}"

    def test_its_values_and_the_defaults_of_the_others_are_usable(self) -> None:
        context(self.plugin, self.values, RecordedEvents())

    def test_runs_until_it_is_cancelled(self) -> None:
        async def scenario(task: asyncio.Task[None], _: HeldLeadership, __: RecordedEvents) -> None:
            done, _pending = await asyncio.wait({task}, timeout=self.settle_seconds)
            assert not done, f"run() ended by itself: {_ending(task)}"

        self._play(scenario)

    def test_ends_promptly_when_it_is_cancelled_at_its_first_await(self) -> None:
        async def scenario(task: asyncio.Task[None], _: HeldLeadership, __: RecordedEvents) -> None:
            await asyncio.sleep(0)  # it has run to its first await

        self._play(scenario)

    def test_ends_by_itself_or_by_cancellation_when_the_leadership_ends(self) -> None:
        async def scenario(task: asyncio.Task[None], held: HeldLeadership, _: RecordedEvents) -> None:
            await asyncio.wait({task}, timeout=self.settle_seconds)
            held.end("another engine leads")

        self._play(scenario)

    def test_touches_nothing_after_its_leadership_has_ended(self) -> None:
        async def scenario(task: asyncio.Task[None], held: HeldLeadership, events: RecordedEvents) -> None:
            await asyncio.wait({task}, timeout=self.settle_seconds)
            held.end("another engine leads")
            before = events.recorded.copy()
            await asyncio.wait({task}, timeout=self.settle_seconds)
            assert events.recorded == before, f"still recorded: {events.recorded[len(before) :]}"

        self._play(scenario)

    def _play(
        self,
        scenario: Callable[[asyncio.Task[None], HeldLeadership, RecordedEvents], Coroutine[Any, Any, None]],
    ) -> None:
        """Run the plugin, the scenario beside it, cancel it, and see that all of it ends."""

        async def play() -> None:
            before = asyncio.all_tasks()
            events, held = RecordedEvents(), leadership()
            plugin = self.plugin(context(self.plugin, self.values, events))
            running = run_singleton(plugin, held, name="singleton under test")
            task = asyncio.create_task(running, name="singleton under test")
            try:
                await scenario(task, held, events)
            finally:
                in_thread = not runs_in_loop(self.plugin)
                if in_thread:
                    held.end("the singleton is being stopped")  # all that a thread is told
                task.cancel()
                done, _ = await asyncio.wait({task}, timeout=self.stop_seconds)
            assert done, f"run() was still alive {self.stop_seconds:g} s after it was cancelled"
            obeyed = task.cancelled() or isinstance(task.exception(), AuthorityLost)
            assert obeyed or (in_thread and task.exception() is None), _ending(task)
            left = {other.get_name() for other in asyncio.all_tasks() - before - {task}}
            assert not left, f"run() left tasks behind: {sorted(left)}"

        loop = asyncio.new_event_loop()
        try:
            # Not asyncio.run: at its end that waits without bound for a task which ignores cancellation.
            loop.run_until_complete(play())
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


def _ending(task: asyncio.Task[None]) -> str:
    if task.cancelled():
        return "it was cancelled"
    error = task.exception()
    return f"it raised {error!r}" if error else "it returned"
