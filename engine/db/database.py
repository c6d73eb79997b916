"""The one door to the database: snapshot reads, writing transactions, and writes under a shard guard.

A writing transaction commits when its body ends and leaves nothing behind when it raises or is
cancelled. On SQLite it takes the write lock at its start (several processes share one file); reads
never take it. `fenced` is the shard guard of design.md: one SELECT proves, and on PostgreSQL holds
until the commit, that every shard still bears the epoch under which the caller acts.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Self, TypeVar

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from engine.clock import boottime
from engine.db import postgresql, schema, sqlite
from engine.db.errors import Contended, reached, translated
from engine.db.sqlite_writers import Writers
from engine.db.tables import shard
from engine.errors import Fenced, InvalidInput
from engine.plugin import ShardId

T = TypeVar("T")

AGAIN_SECONDS = 0.05
"""The longest pause before a transaction is done again that another one got in the way of."""

SHARD_GUARD = (
    sa.select(shard.c.shard, shard.c.epoch)
    .where(shard.c.shard.in_(sa.bindparam("shards", expanding=True)))
    .order_by(shard.c.shard)
)
# FOR SHARE, which SQLite does not need: BEGIN IMMEDIATE does it there. An array, since a list of another
# length is another statement, which each connection would prepare anew.
POSTGRESQL_SHARD_GUARD = (
    sa.select(shard.c.shard, shard.c.epoch)
    .where(shard.c.shard == sa.any_(sa.bindparam("shards", type_=sa.ARRAY(sa.Integer))))
    .order_by(shard.c.shard)
    .with_for_update(read=True)
)


def open_engine(
    url: str,
    *,
    busy_timeout_seconds: float = 5.0,
    pool_size: int = 15,
    statement_seconds: float = postgresql.STATEMENT_SECONDS,
    answer_seconds: float = postgresql.ANSWER_SECONDS,
) -> AsyncEngine:
    """An SQLAlchemy engine as this project uses it. Raises `InvalidInput` for a URL that is none."""
    try:
        parsed = sa.make_url(url)
        dialect = parsed.get_dialect()
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ValueError) as error:
        raise InvalidInput(f"not a database URL: {error}", fields={"url": str(error)}) from error
    if not dialect.is_async:
        raise InvalidInput(
            f"the driver of {parsed.drivername!r} is not asynchronous; use sqlite+aiosqlite or"
            " postgresql+asyncpg",
            fields={"url": "needs an asynchronous driver"},
        )
    connect_arguments: dict[str, Any] = {}
    if dialect.name == "sqlite":
        connect_arguments = sqlite.connect_arguments(busy_timeout_seconds)
    elif dialect.name == "postgresql":
        connect_arguments = postgresql.connect_arguments(
            busy_timeout_seconds, statement_seconds, answer_seconds
        )
    try:
        return create_async_engine(
            parsed,
            json_serializer=_to_json,
            json_deserializer=orjson.loads,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=busy_timeout_seconds,
            connect_args=connect_arguments,
        )
    except ImportError as error:
        raise InvalidInput(
            f"the database driver is not installed: {error.name} (engine-ha[postgresql] has it)",
            fields={"url": str(error)},
        ) from error


class Database:
    """A pool of connections to one database; an async context manager that closes them.

    Made after the fork and used in one loop. All of its methods raise `Unavailable` when the
    database does not answer, `Conflict` (`Duplicate`) when a constraint forbids a write.
    """

    def __init__(
        self,
        url: str,
        *,
        program: str = "engine",
        busy_timeout_seconds: float = 5.0,
        pool_size: int = 15,
        statement_seconds: float = postgresql.STATEMENT_SECONDS,
        answer_seconds: float = postgresql.ANSWER_SECONDS,
    ) -> None:
        """`program` says whose connections these are, to whoever looks at the server; the last two bound
        a statement there, and how much longer its answer is waited for (PostgreSQL only)."""
        self.url = url
        self._engine = open_engine(
            url,
            busy_timeout_seconds=busy_timeout_seconds,
            pool_size=pool_size,
            statement_seconds=statement_seconds,
            answer_seconds=answer_seconds,
        )
        self._busy_timeout_seconds = busy_timeout_seconds
        self._names = postgresql.Names(program)
        reading: dict[str, Any] = {}
        # SQLite's waiters poll (up to 100 ms apart); those of one process can simply queue.
        self._turn: asyncio.Lock | None = None
        self._writers: Writers | None = None
        if self.dialect == "sqlite":
            if (file := self._engine.url.database) and file != ":memory:":
                self._writers = Writers(Path(file))
            sqlite.take_control(self._engine, busy_timeout_seconds)
            self._turn = asyncio.Lock()
        elif self.dialect == "postgresql":
            postgresql.take_control(self._engine, self._names)
            reading = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self._reader = self._engine.execution_options(**reading) if reading else self._engine
        asking = {"isolation_level": "AUTOCOMMIT"} if self.dialect == "postgresql" else {}
        self._asker = self._engine.execution_options(**asking)
        self._writer = self._engine.execution_options(writing=True)

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    def work_for(self, session: int | None) -> None:
        """Connections taken from now on say that they work for this ZooKeeper session."""
        self._names.work_for(session)
        if self._writers is not None:
            self._writers.work_for(session)

    async def end_backends(self, session: int) -> int:
        """End the transactions of a ZooKeeper session that is over; how many connections that cost.

        On SQLite, where the lock belongs to a process, that process is killed if it has the lock.
        """
        if self._writers is not None:
            return await self._writers.end(session)
        if self.dialect != "postgresql":
            return 0
        async with self.writing() as connection:
            return await postgresql.end_backends(connection, session)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._engine.dispose()
        if self._writers is not None:
            self._writers.close()

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """One consistent snapshot, from the first statement on. Writes nothing."""
        with translated():
            async with _connected(self._reader) as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[AsyncConnection]:
        """For one statement that reads: without a transaction around it, which would be two more round
        trips. Of several statements each would see a state of its own."""
        with translated():
            async with _connected(self._asker) as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that commits when the body ends, and rolls back when it raises.

        Raises `OutcomeUnknown` when the connection broke while it was committed.
        """
        async with self._turn or contextlib.nullcontext():
            with translated():
                async with _connected(self._writer) as connection:
                    await connection.begin()
                    yield connection
                    with translated(committing=True):
                        await connection.commit()

    async def written(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Do `work` in a writing transaction, and once more where the database ended that in favour of
        another one (`Contended`): nothing of it was committed then. What `work` returned, committed.

        `work` changes nothing but the database. Its patience is that for a lock.
        """
        until = boottime() + self._busy_timeout_seconds
        while True:
            try:
                async with self.writing() as connection:
                    done = await work(connection)
            except Contended:
                pause = random.uniform(0.0, AGAIN_SECONDS)
                if boottime() + pause >= until:
                    raise
            else:
                return done
            await asyncio.sleep(pause)

    def joining(self, connection: AsyncConnection | None) -> AbstractAsyncContextManager[AsyncConnection]:
        """The caller's writing transaction where it has one, which it commits; else one as of `writing`."""
        return self.writing() if connection is None else contextlib.nullcontext(connection)

    @contextlib.asynccontextmanager
    async def fenced(self, epochs: Mapping[ShardId, int]) -> AsyncIterator[AsyncConnection]:
        """A writing transaction in which every shard of `epochs` bears exactly that epoch.

        Raises `Fenced`, naming the shards, before the body runs. An empty mapping guards nothing
        and is refused with ValueError.
        """
        if not epochs:
            raise ValueError("fenced() needs at least one shard; use writing() for unguarded writes")
        async with self.writing() as connection:
            await guard_shards(connection, epochs)
            yield connection

    async def ping(self) -> None:
        """Return when the database answers; raise `Unavailable` with the reason when it does not."""
        async with self.reading() as connection:
            await connection.execute(sa.text("SELECT 1"))

    async def check_schema(self) -> None:
        """Raise `SchemaMismatch` unless the schema is exactly the one this code was written for."""
        async with self.reading() as connection:
            schema.require_head(await connection.run_sync(schema.revision_of))


@contextlib.asynccontextmanager
async def _connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with contextlib.AsyncExitStack() as stack:
        with reached():
            connection = await stack.enter_async_context(engine.connect())
        try:
            yield connection
        except BaseException:
            # Why the body failed must not be hidden by a connection that cannot even roll back.
            try:
                await connection.rollback()
            except sa.exc.DBAPIError:
                await connection.invalidate()
            raise


async def guard_shards(connection: AsyncConnection, epochs: Mapping[ShardId, int]) -> None:
    """The shard guard, for a transaction that is open already: raise `Fenced` naming who differs."""
    present = await held_epochs(connection, epochs)
    differing = [number for number in sorted(epochs) if present.get(number) != epochs[number]]
    if differing:
        told = (f"shard {n} is at epoch {present.get(n, 'none')}, not {epochs[n]}" for n in differing)
        raise Fenced("; ".join(told))


async def held_epochs(connection: AsyncConnection, shards: Iterable[ShardId]) -> dict[ShardId, int]:
    """The epochs of these shards, which nobody can change before this writing transaction ends."""
    guard = POSTGRESQL_SHARD_GUARD if connection.dialect.name == "postgresql" else SHARD_GUARD
    rows = await connection.execute(guard, {"shards": sorted(shards)})
    return {ShardId(number): epoch for number, epoch in rows}


def _to_json(value: object) -> str:
    return orjson.dumps(value).decode()
