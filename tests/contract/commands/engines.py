"""Engines that run commands, in one process: real sessions, locks and rows; ownership by the test's hand."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta

from engine.commands.catalogue import Catalogue
from engine.commands.context import NoConnections
from engine.commands.executor import CommandExecutor
from engine.commands.records import CommandState, History
from engine.commands.services import CommandLocks, CommandSettings, Services
from engine.commands.store import CommandStore
from engine.commands.submission import Submission
from engine.coordination.session import SessionSettings, open_session
from engine.db.database import Database
from engine.db.groupcommit import GroupCommit
from engine.locks.holds import HoldView
from engine.locks.lock import Locks
from engine.plugin import EngineId, ShardId
from tests.contract.commands.script import WORLDS, Script, World
from tests.contract.given import GivenOwner

SHARDS = 4
DEADLINE_SECONDS = 10.0
SETTINGS = CommandSettings(
    quarantine_seconds=0.3,
    handover_seconds=0.5,
    look_seconds=0.1,
    retry_seconds=(0.01, 0.05, 0.1),
    sweep_seconds=2.0,
)
CATALOGUE = Catalogue({"script": Script})
_numbers = itertools.count(1)


class Engine(GivenOwner):
    """One executor."""

    def __init__(self, cluster: Cluster, name: str, executor: CommandExecutor) -> None:
        super().__init__(cluster, name, executor)
        self.executor = executor


class Cluster:
    shards = SHARDS

    def __init__(self, database: Database, locks: Locks) -> None:
        self.database = database
        self.locks = locks
        self.store = CommandStore(database)
        self.epochs = itertools.count(100)
        self.owners: dict[ShardId, Engine] = {}
        self.world_name = f"world-{next(_numbers)}"
        self.world = WORLDS[self.world_name] = World()
        self.submission = self.submission_with(locks)

    def submission_with(self, locks: CommandLocks) -> Submission:
        async def present() -> CommandLocks:
            return locks

        return Submission(store=self.store, catalogue=CATALOGUE, locks=present, bump=self.bump, shards=SHARDS)

    async def bump(self, shard: ShardId) -> None:
        if shard in self.owners:
            self.owners[shard].executor.refresh([shard])

    @contextlib.asynccontextmanager
    async def engine(
        self, name: str, settings: CommandSettings = SETTINGS, ledger: GroupCommit | None = None
    ) -> AsyncIterator[Engine]:
        services = Services(
            engine=EngineId(name),
            shards=SHARDS,
            store=self.store,
            ledger=ledger or GroupCommit(self.database),
            locks=self.locks,
            connections=NoConnections(),
            catalogue=CATALOGUE,
            bump=self.bump,
            settings=settings,
        )
        async with CommandExecutor(services) as executor:
            yield Engine(self, name, executor)

    async def submit(self, *steps: str, about: str = "thing-1", **options: object) -> str:
        arguments = {"world": self.world_name, "steps": list(steps), "about": about}
        submitted = await self.submission.submit("script", arguments, **options)  # type: ignore[arg-type]
        return submitted.command.id

    async def until(self, command_id: str, condition: Callable[[History], bool]) -> History:
        history = await self.store.history(command_id)
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not condition(history):
                    await asyncio.sleep(0.01)
                    history = await self.store.history(command_id)
        except TimeoutError:
            raise AssertionError(f"it did not come to that: {history}") from None
        return history

    async def ended(self, command_id: str) -> History:
        history = await self.until(
            command_id, lambda h: h.command.ended or h.command.state is CommandState.NEEDS_OPERATOR
        )
        if history.command.ended:
            await self.freed(command_id)
        return history

    async def freed(self, command_id: str) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await self.locks.command_token(command_id) is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


class LateLocks:
    """Locks that are taken at once, and told of only when the test lets them be."""

    def __init__(self, locks: Locks) -> None:
        self._locks = locks
        self.locked, self.go_on = asyncio.Event(), asyncio.Event()
        self.command_id = ""

    async def take_for_command(
        self,
        command_id: str,
        *,
        exclusive: frozenset[str],
        shared: frozenset[str],
        user: str,
        reason: str,
        wait: timedelta | None = None,
    ) -> int:
        token = await self._locks.take_for_command(
            command_id, exclusive=exclusive, shared=shared, user=user, reason=reason, wait=wait
        )
        self.command_id = command_id
        self.locked.set()
        await self.go_on.wait()
        return token

    async def release_command(self, command_id: str) -> None:
        await self._locks.release_command(command_id)

    async def command_token(self, command_id: str) -> int | None:
        return await self._locks.command_token(command_id)

    async def holders(self) -> Sequence[HoldView]:
        return await self._locks.holders()


@contextlib.asynccontextmanager
async def cluster_on(database: Database, settings: SessionSettings) -> AsyncIterator[Cluster]:
    async with open_session(settings) as session:
        yield Cluster(database, Locks(session, engine="test", incarnation=1))
