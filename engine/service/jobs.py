"""Where the scheduler meets what it is blind to: tasks run here, commands are submitted in its transactions.

`LocalTasks` is `engine.scheduler.services.Tasks`, `JobCommands` its `Commands`. A job's command waits for
its locks as a row, so that the run and the command are committed together or not at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from datetime import datetime
from importlib.metadata import EntryPoint
from typing import Any

from engine import arguments
from engine.clock import utcnow
from engine.commands import store as command_rows
from engine.commands.records import CommandRecord, CommandState
from engine.commands.submission import Submission
from engine.commands.transactions import new_record
from engine.db.database import Database
from engine.db.events import NewEvent, record_all
from engine.errors import EngineError, Unavailable
from engine.execution.catalogue import Catalogue
from engine.execution.server import Post
from engine.plugin import Authority, EngineId, Json, ShardId, TaskContext
from engine.scheduler.jobs.reconcile import declared_jobs, reconcile
from engine.scheduler.jobs.store import JobStore
from engine.scheduler.records import Schedule
from engine.scheduler.services import CommandEnd
from engine.sharding.hashing import shard_of

LOG = logging.getLogger(__name__)

LOCK_WAIT_SECONDS = 60.0
"""How long a job's command waits for locks that others have."""


RECONCILE_PAUSE_SECONDS = 2.0
"""Between tries, while the database does not answer."""


async def reconcile_jobs(
    database: Database,
    found: Iterable[EntryPoint],
    *,
    shards: int,
    bump: Callable[[ShardId], Awaitable[None]],
) -> None:
    """Bring the jobs of plugins in line with those `found` here; once, as soon as that can be done."""
    declared = declared_jobs(found)
    while True:
        try:
            await reconcile(JobStore(database), declared, shard_of=lambda id: shard_of(id, shards), bump=bump)
            return
        except Unavailable as error:
            LOG.warning("the jobs of plugins cannot be reconciled yet: %s", error)
            await asyncio.sleep(RECONCILE_PAUSE_SECONDS)


class LocalTasks:
    """Tasks of `catalogue`, run by this engine with what `post` gives them."""

    def __init__(self, catalogue: Catalogue, post: Post, *, engine: EngineId) -> None:
        self._catalogue = catalogue
        self._post = post
        self._engine = engine

    def timeout_seconds(self, name: str) -> float:
        return self._catalogue.find(name).kind.timeout_seconds

    async def run(
        self, name: str, values: Json, *, key: str, authority: Authority, planned_at: datetime
    ) -> Any:
        task = self._catalogue.find(name)
        parsed: Any = arguments.parse(task.kind.arguments_type, values)
        context = TaskContext(
            engine=self._engine,
            key=key,
            authority=authority,
            options=task.values,
            now=utcnow,
            reader=self._post.reader,
            maps=self._post.maps,
            view=self._post.view,
            connection=self._post.connection,
            visit=self._post.visit,
            planned_at=planned_at,
        )
        return await task.kind().run(context, parsed)


class JobCommands:
    """Over the submission of the present session."""

    def __init__(
        self,
        submission: Submission,
        *,
        bump: Callable[[ShardId], Awaitable[None]],
        engine: EngineId,
        shards: int,
    ) -> None:
        self._submission = submission
        self._bump = bump
        self._engine = engine
        self._shards = shards

    def prepare(self, schedule: Schedule, command_id: str) -> CommandRecord:
        command = self._submission.catalogue.build(schedule.action, schedule.arguments)
        wanted = command.locks()
        locks = {"exclusive": sorted(wanted.exclusive), "shared": sorted(wanted.shared)}
        return new_record(
            schedule.action,
            command,
            shard_of=lambda thing: shard_of(thing, self._shards),
            user=schedule.user or f"job:{schedule.name}",
            now=utcnow(),
            locks=locks,
            id=command_id,
            lock_wait_seconds=LOCK_WAIT_SECONDS if any(locks.values()) else None,
        )

    async def insert(self, connection: Any, prepared: Sequence[CommandRecord]) -> None:
        if not prepared:
            return
        await command_rows.insert(connection, prepared)
        await record_all(connection, [self._told(record, utcnow()) for record in prepared])

    async def tell(self, prepared: Sequence[CommandRecord]) -> None:
        for shard in sorted({record.shard for record in prepared}):
            try:
                await self._bump(shard)
            except EngineError as error:
                LOG.debug("shard %s was not told of a job's command: %s", shard, error)

    def check(self, command: str, arguments: Json) -> None:
        self._submission.catalogue.build(command, arguments)

    async def ended(self, ids: Collection[str]) -> Sequence[CommandEnd]:
        ended, absent = await self._submission.store.ended_or_absent(ids)
        ends = [CommandEnd(id, False, "vanished", "it is not there any more") for id in absent]
        for id in ended:
            record = (await self._submission.store.history(id)).command
            succeeded = record.state is CommandState.SUCCEEDED
            ends.append(CommandEnd(id, succeeded, str(record.state), record.error))
        return ends

    async def cancel(self, command_id: str) -> None:
        try:
            await self._submission.cancel(command_id)
        except EngineError as error:
            LOG.info("command=%s of a job was not cancelled: %s", command_id, error)

    def _told(self, record: CommandRecord, at: datetime) -> NewEvent:
        about = {"command": record.id, "type": record.type, "user": record.user}
        what = f"{record.type} of {record.entity_kind} {record.entity_id} was asked for by {record.user}"
        return NewEvent(kind="command_submitted", message=what, engine=self._engine, data=about, at=at)
