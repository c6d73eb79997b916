"""What a fenced transaction costs on PostgreSQL, through the engine and by hand-written asyncpg.

    python -m tests.bench.bench_db [--url URL] [--seconds N] [--rounds N] [--smoke]

Each transaction holds the shard guard and changes rows of that shard. The arms take turns within each
round, and medians over the rounds are told: this machine's mood is the same for all of them. Without
--url a private server runs, with fsync on. `floor` is what asyncpg does with the same statements on
connections of its own; `unguarded` the same without the guard.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import asyncpg
import sqlalchemy as sa

from engine.clock import boottime, utcnow
from engine.db import migrate
from engine.db.database import Database
from engine.db.local_postgres import LocalPostgres
from engine.db.tables import host, shard
from engine.plugin import EngineId, ShardId
from engine.sharding.store import EpochStore

SHARDS = 16
HOSTS = 100
EPOCH = 2**32 + 1

Transaction = Callable[[int], Awaitable[None]]
"""One transaction of worker n."""

_TOUCH = (
    host.update()
    .where(host.c.id == sa.bindparam("of_host"), host.c.shard == sa.bindparam("of_shard"))
    .values(reported_at=sa.bindparam("at"))
)
_GUARD = "SELECT shard, epoch FROM shard WHERE shard = $1 ORDER BY shard FOR SHARE"
_RAW_TOUCH = "UPDATE host SET reported_at = $1 WHERE id = $2 AND shard = $3"


def ids(number: int, rows: int) -> list[str]:
    """Hosts of the shard of worker `number`."""
    return [f"{number % SHARDS}-{row}" for row in range(rows)]


async def fill(database: Database) -> None:
    now = utcnow()
    rows = [
        {
            "id": f"{number}-{row}",
            "name": f"{number}-{row}",
            "address": f"{number}-{row}",
            "port": 1,
            "driver": "vdsm",
            "shard": number,
            "status": "up",
            "status_since": now,
            "created_at": now,
        }
        for number in range(SHARDS)
        for row in range(HOSTS)
    ]
    async with database.writing() as connection:
        await connection.execute(shard.insert(), [{"shard": n, "epoch": EPOCH} for n in range(SHARDS)])
        await connection.execute(host.insert(), rows)


def through_the_engine(database: Database, rows: int) -> Transaction:
    async def transaction(number: int) -> None:
        mine, now = ShardId(number % SHARDS), utcnow()
        async with database.fenced({mine: EPOCH}) as connection:
            changes = [{"of_host": id, "of_shard": mine, "at": now} for id in ids(number, rows)]
            await connection.execute(_TOUCH, changes if rows > 1 else changes[0])

    return transaction


def by_hand(connections: Sequence[asyncpg.Connection], rows: int, *, guarded: bool) -> Transaction:
    async def transaction(number: int) -> None:
        connection, mine, now = connections[number], number % SHARDS, utcnow()
        async with connection.transaction():
            if guarded:
                (found,) = await connection.fetch(_GUARD, mine)
                assert found["epoch"] == EPOCH
            changes = [(now, id, mine) for id in ids(number, rows)]
            if rows > 1:
                await connection.executemany(_RAW_TOUCH, changes)
            else:
                await connection.execute(_RAW_TOUCH, *changes[0])

    return transaction


async def rate(transaction: Transaction, workers: int, seconds: float) -> float:
    """Transactions a second of `workers` at once."""
    await asyncio.gather(*(transaction(number) for number in range(workers)))  # connected, prepared
    done, begun = 0, boottime()

    async def work(number: int) -> None:
        nonlocal done
        while boottime() < begun + seconds:
            await transaction(number)
            done += 1

    await asyncio.gather(*(work(number) for number in range(workers)))
    return done / (boottime() - begun)


async def takeover_ms(database: Database, url: str, round_number: int) -> float:
    """Ending a frozen predecessor's backend and taking its shards, in one go."""
    session = 0x1000 + round_number
    async with Database(url, pool_size=1) as dead:
        dead.work_for(session)
        with contextlib.suppress(Exception):  # its connection is ended: that is what is measured
            async with dead.fenced({ShardId(number): EPOCH for number in range(SHARDS)}):
                store = EpochStore(database)
                begun = boottime()
                await store.end_backends(session)
                await store.take({ShardId(n): EPOCH + 1 for n in range(SHARDS)}, EngineId("heir"))
                took = boottime() - begun
    async with database.writing() as connection:
        await connection.execute(shard.update().values(epoch=EPOCH))
    return took * 1000


@contextlib.asynccontextmanager
async def raw_connections(url: str, count: int) -> AsyncIterator[list[asyncpg.Connection]]:
    plain = url.replace("+asyncpg", "")
    connections = [await asyncpg.connect(plain) for _ in range(count)]
    try:
        yield connections
    finally:
        for connection in connections:
            await connection.close()


async def measure(url: str, *, seconds: float, rounds: int, workers: int) -> None:
    await migrate.upgrade(url)
    found: dict[str, list[float]] = {}
    async with Database(url, pool_size=workers) as database, raw_connections(url, workers) as raw:
        await fill(database)
        for round_number in range(rounds):
            for rows in (1, HOSTS):
                arms = {
                    "engine": through_the_engine(database, rows),
                    "floor": by_hand(raw, rows, guarded=True),
                    "unguarded": by_hand(raw, rows, guarded=False),
                }
                for count in (1, workers):
                    for name, transaction in arms.items():
                        figure = await rate(transaction, count, seconds)
                        found.setdefault(f"db.fenced.{rows}_rows.{count}_tasks.{name}", []).append(figure)
            took = await takeover_ms(database, url, round_number)
            found.setdefault("db.takeover_from_a_frozen_transaction", []).append(took)
    for name, figures in sorted(found.items()):
        unit = "ms" if "takeover" in name else "tx/s"
        print(f"{name}: {statistics.median(figures):.1f} {unit}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", help="an empty PostgreSQL database (default: a private server)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each arm in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=8, help="transactions at once")
    parser.add_argument("--smoke", action="store_true", help="a second in all")
    chosen = parser.parse_args()
    seconds, rounds = (0.05, 1) if chosen.smoke else (chosen.seconds, chosen.rounds)
    with contextlib.ExitStack() as stack:
        url = chosen.url or stack.enter_context(LocalPostgres()).url()
        asyncio.run(measure(url, seconds=seconds, rounds=rounds, workers=chosen.workers))


if __name__ == "__main__":
    main()
