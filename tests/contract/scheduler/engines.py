"""Engines that run jobs, in one process: real rows; ownership, tasks and commands by the test's hand."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from engine.db.database import Database
from engine.db.tables import event, schedule
from engine.errors import InvalidInput, NotFound
from engine.plugin import Authority, EngineId, Json, ShardId
from engine.scheduler.jobs.desk import JobDesk
from engine.scheduler.jobs.store import JobStore
from engine.scheduler.loop import Scheduler
from engine.scheduler.records import Fire, FireState, Schedule
from engine.scheduler.services import CommandEnd, SchedulerSettings
from engine.scheduler.store import FireStore
from engine.sharding.hashing import shard_of
from tests.contract.given import GivenOwner

SHARDS = 4
DEADLINE_SECONDS = 15.0
SETTINGS = SchedulerSettings(
    look_seconds=0.2,
    handover_seconds=0.3,
    sample_seconds=0.2,
    prune_seconds=0.1,
    command_look_seconds=0.02,
)


class World:
    """What tasks do: each is a function of its arguments; every start is noted."""

    def __init__(self) -> None:
        self.starts: list[tuple[str, str, Json]] = []
        self.doing: dict[str, Callable[[Json], Awaitable[Any]]] = {}

    def started(self, task: str = "note") -> list[Json]:
        return [arguments for _engine, name, arguments in self.starts if name == task]


class GivenTasks:
    def __init__(self, engine: str, world: World) -> None:
        self._engine = engine
        self._world = world

    def timeout_seconds(self, name: str) -> float:
        if name != "note" and name not in self._world.doing:
            raise NotFound(f"there is no task {name}")
        return 30.0

    async def run(
        self, name: str, arguments: Json, *, key: str, authority: Authority, planned_at: datetime
    ) -> Any:
        self.timeout_seconds(name)
        self._world.starts.append((self._engine, name, arguments))
        if name in self._world.doing:
            return await self._world.doing[name](arguments)
        return {"by": self._engine}


class GivenCommands:
    """Commands as events in the job's own transaction; the test says how they end."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.cancelled: list[str] = []
        self.ends: dict[str, CommandEnd] = {}

    def check(self, command: str, arguments: Json) -> None:
        if command != "noted":
            raise NotFound(f"there is no command {command}")

    def prepare(self, schedule: Schedule, command_id: str) -> str:
        if schedule.arguments.get("bad"):
            raise InvalidInput("its arguments are bad by now")
        return command_id

    async def insert(self, connection: Any, prepared: Sequence[str]) -> None:
        for command_id in prepared:
            row = {"at": sa.func.current_timestamp(), "kind": "noted", "message": command_id, "data": {}}
            await connection.execute(event.insert().values(row))

    async def tell(self, prepared: Sequence[str]) -> None:
        self.told += prepared

    async def ended(self, ids: Collection[str]) -> Sequence[CommandEnd]:
        return [self.ends[id] for id in ids if id in self.ends]

    async def cancel(self, command_id: str) -> None:
        self.cancelled.append(command_id)
        self.ends[command_id] = CommandEnd(command_id, False, "cancelled", "")


class Engine(GivenOwner):
    """One scheduler."""

    def __init__(self, cluster: Cluster, name: str, scheduler: Scheduler) -> None:
        super().__init__(cluster, name, scheduler)
        self.scheduler = scheduler
        self.fenced: set[ShardId] = set()


class Cluster:
    shards = SHARDS

    def __init__(self, database: Database) -> None:
        self.database = database
        self.world = World()
        self.commands = GivenCommands()
        self.epochs = itertools.count(100)
        self.owners: dict[ShardId, Engine] = {}
        self.store = JobStore(database)
        self.desk = JobDesk(
            self.store,
            bump=self.bump,
            shard_of=lambda id: shard_of(id, SHARDS),
            check_task=lambda name, _arguments: self._check_task(name),
            check_command=self.commands.check,
        )

    def _check_task(self, name: str) -> None:
        GivenTasks("", self.world).timeout_seconds(name)

    async def bump(self, shard: ShardId) -> None:
        if shard in self.owners:
            self.owners[shard].scheduler.refresh([shard])

    @contextlib.asynccontextmanager
    async def engine(self, name: str, settings: SchedulerSettings = SETTINGS) -> AsyncIterator[Engine]:
        fenced: set[ShardId] = set()
        scheduler = Scheduler(
            FireStore(self.database, engine=EngineId(name), commands=self.commands),
            engine=EngineId(name),
            tasks=GivenTasks(name, self.world),
            commands=self.commands,
            settings=settings,
            on_fenced=fenced.update,
        )
        async with scheduler:
            engine = Engine(self, name, scheduler)
            engine.fenced = fenced
            yield engine

    async def add(self, name: str = "job", **values: Any) -> Schedule:
        if "command" not in values:
            values.setdefault("task", "note")
        return await self.desk.add({"name": name, **values})

    async def runs(self, job: Schedule | str) -> list[Fire]:
        """The oldest first."""
        called = job if isinstance(job, str) else job.id
        return (await self.desk.fires(called, limit=10_000))[::-1]

    async def until(self, job: Schedule, condition: Callable[[list[Fire]], bool]) -> list[Fire]:
        runs = await self.runs(job)
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not condition(runs):
                    await asyncio.sleep(0.01)
                    runs = await self.runs(job)
        except TimeoutError:
            raise AssertionError(f"it did not come to that: {runs}") from None
        return runs

    async def ended(self, job: Schedule, count: int = 1) -> list[Fire]:
        """Once this many runs have ended."""
        return await self.until(job, lambda runs: sum(run.ended_at is not None for run in runs) >= count)

    async def missed(self, name: str = "job", *, minutes: int = 5, **values: Any) -> Schedule:
        """A job of each minute that nobody has run for so many minutes; its next is half a minute away."""
        start = await self.now() - timedelta(minutes=minutes + 10, seconds=30)
        job = await self.add(name, every=60, start=start.isoformat(), **{"grace": 1, **values})
        planned = start + timedelta(minutes=10)
        async with self.database.writing() as connection:
            change = schedule.update().where(schedule.c.id == job.id)
            await connection.execute(change.values(next_fire_at=planned + timedelta(minutes=1)))
        return job

    async def now(self) -> datetime:
        return await self.store.now()


def states(runs: Sequence[Fire]) -> list[FireState]:
    return [run.state for run in runs]
