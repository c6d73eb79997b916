"""The part of `bench_commands` that kills an engine in the middle of its commands.

SIGKILL of one of three engines; its supervisor closes its session. From the kill until the last of its
commands has been claimed by another owner, as the database says.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from engine.clock import boottime, utcnow
from engine.commands import store
from engine.commands.transactions import new_record
from engine.db.database import Database
from engine.db.tables import command
from engine.local_cluster.cluster import LocalCluster
from engine.local_cluster.observer import Observer
from engine.sharding.hashing import shard_of
from tests.bench.command_noop import Noop, NoopArguments
from tests.bench.command_posts import READY_SECONDS, Say, noop_installed, running

ENGINES = 3
LOOK_SECONDS = 0.005
_HELD = sa.select(command.c.id, command.c.epoch, command.c.engine).where(command.c.started_at.is_not(None))


async def measure_pickup(directory: Path, url: str, kind: str, say: Say, *, number: int, rounds: int) -> None:
    """`number` commands on each engine; as many kills as `rounds`."""
    taken = []
    with noop_installed(directory / "installed"):
        async with (
            running(directory / "state", url, engines=ENGINES, workers=1) as (cluster, observer),
            Database(url) as database,
        ):
            await _insert(database, number * ENGINES, cluster.layout.shards)
            for victim in range(rounds):
                await _all_held(database, number * ENGINES)
                taken.append(await _kill(cluster, observer, database, f"engine-{victim % ENGINES + 1}"))
    say(f"pickup.{kind}.median", statistics.median(taken), f"s for the {number} or so of one engine")
    say(f"pickup.{kind}.worst", max(taken), "s (at most 1)")


async def _insert(database: Database, number: int, shards: int) -> None:
    arguments = [NoopArguments(about=f"vm-{n}", steps=1, locked=False, seconds=3600) for n in range(number)]
    records = [
        new_record(
            "noop",
            Noop(each),
            shard_of=lambda id: shard_of(id, shards),
            user="",
            now=utcnow(),
            locks={"exclusive": [], "shared": []},
        )
        for each in arguments
    ]
    async with database.writing() as connection:
        await store.insert(connection, records)


async def _held(database: Database) -> dict[str, Any]:
    async with database.asking() as connection:
        return {row.id: row for row in await connection.execute(_HELD)}


async def _all_held(database: Database, number: int) -> None:
    async with asyncio.timeout(READY_SECONDS):
        while len(await _held(database)) < number:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def _kill(cluster: LocalCluster, observer: Observer, database: Database, engine: str) -> float:
    """Seconds until the last command of this engine had another owner."""
    before = {id: row.epoch for id, row in (await _held(database)).items() if row.engine == engine}
    seen = observer.members()[engine]
    began = boottime()
    os.kill(seen.pid, signal.SIGKILL)
    async with asyncio.timeout(READY_SECONDS):
        while any(row.epoch == before.get(id) for id, row in (await _held(database)).items()):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)
    seconds = boottime() - began
    await observer.settled(set(cluster.engines), cluster.layout.shards, seconds=READY_SECONDS)
    return seconds
