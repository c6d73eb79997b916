"""Commands: how many three-step ones an engine brings to their end, and how quickly one through the API.

    python -m tests.bench.bench_commands [--only rate,post,page,pickup] [--database sqlite] [--smoke]

`rate`: commands that stand in the database with their locks taken, run by one engine, beside the same
moves as plain SQL (`command_floor`) and beside taskflow, with two processes, where that is installed
(`command_peers`).
`post`: from POST to succeeded through gunicorn's API and one engine process, one by one and many at
once. `page`: a page of a long list. `pickup`: from the kill of an engine until others have all that it
ran. Prints `name: value unit`, medians of rounds that alternate.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from engine.clock import boottime, utcnow
from engine.commands import store
from engine.commands.catalogue import Catalogue
from engine.commands.context import NoConnections
from engine.commands.executor import CommandExecutor
from engine.commands.records import CommandRecord, CommandState
from engine.commands.services import CommandSettings, Services
from engine.commands.store import CommandStore
from engine.commands.transactions import new_record
from engine.coordination.local import LocalServer
from engine.coordination.session import SessionSettings, open_session
from engine.db import migrate
from engine.db.database import Database
from engine.db.groupcommit import GroupCommit
from engine.db.local_postgres import LocalPostgres
from engine.locks.lock import Locks
from engine.plugin import AuthorityLost, EngineId, ShardId
from engine.processes import leashed
from engine.sharding.hashing import shard_of
from engine.sharding.store import EpochStore
from tests.bench import command_floor
from tests.bench.command_noop import THREE_STEPS, Noop, NoopArguments
from tests.bench.command_pickup import measure_pickup
from tests.bench.command_posts import measure_posts

SHARDS = 16
ME = EngineId("bench")
PATIENCE_SECONDS = 120.0
PEER_FLOWS = 100


def say(name: str, value: float, unit: str) -> None:
    print(f"commands.{name}: {value:.4g} {unit}", flush=True)


def cpu_seconds() -> float:
    """Of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# --- how many ----------------------------------------------------------------------------------------


class Given:
    """Authority that nobody takes away."""

    def check(self) -> None:
        if self.remaining_seconds() <= 0:
            raise AuthorityLost("never")

    def remaining_seconds(self) -> float:
        return 60.0


@dataclass(frozen=True, slots=True)
class Claim:
    shard: ShardId
    epoch: int
    authority: Given


class Engine:
    """What of an engine runs commands, in this process, on a real session and a real database."""

    def __init__(self, database: Database, locks: Locks) -> None:
        self.store = CommandStore(database)
        self.locks = locks
        self.database = database
        self._epoch = 100

    def services(self) -> Services:
        return Services(
            engine=ME,
            shards=SHARDS,
            store=self.store,
            ledger=GroupCommit(self.database),
            locks=self.locks,
            connections=NoConnections(),
            catalogue=Catalogue({"noop": Noop}),
            bump=_told,
            settings=CommandSettings(),
        )

    async def take(self) -> list[Claim]:
        self._epoch += 1
        shards = [ShardId(n) for n in range(SHARDS)]
        await EpochStore(self.database).take(dict.fromkeys(shards, self._epoch), ME)
        return [Claim(shard, self._epoch, Given()) for shard in shards]

    async def insert(self, count: int, *, locked: bool) -> list[CommandRecord]:
        """As many as were submitted by the API, at once."""
        records = []
        for number in range(count):
            arguments = {**THREE_STEPS, "about": f"vm-{number}", "locked": locked}
            command = self.services().catalogue.build("noop", arguments)
            wanted = command.locks()
            records.append(
                new_record(
                    "noop",
                    command,
                    shard_of=lambda id: shard_of(id, SHARDS),
                    user="",
                    now=utcnow(),
                    locks={"exclusive": sorted(wanted.exclusive), "shared": []},
                )
            )
        if locked:
            records = list(await asyncio.gather(*(self._lock(record) for record in records)))
        async with self.database.writing() as connection:
            await store.insert(connection, records)
        return records

    async def _lock(self, record: CommandRecord) -> CommandRecord:
        exclusive = frozenset(record.locks["exclusive"])
        token = await self.locks.take_for_command(record.id, exclusive=exclusive, user="", reason="noop")
        return replace(record, lock_token=token)

    async def until_succeeded(self, executor: CommandExecutor, records: Sequence[CommandRecord]) -> None:
        """And until their locks are free again."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while executor.running or await self._open():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        ended = await self.store.page(limit=len(records), states=[CommandState.SUCCEEDED])
        if {record.id for record in records} - {record.id for record in ended}:
            raise RuntimeError("not all of them have succeeded")

    async def _open(self) -> bool:
        states = [CommandState.QUEUED, CommandState.RUNNING]
        return bool(await self.store.page(limit=1, states=states))


async def _told(_shard: ShardId) -> None:
    return None


@contextlib.asynccontextmanager
async def engine_on(server: LocalServer, url: str) -> AsyncIterator[Engine]:
    settings = SessionSettings(hosts=server.hosts, cluster="bench", tick_seconds=server.tick_seconds)
    async with Database(url) as database, open_session(settings) as session:
        yield Engine(database, Locks(session, engine=ME, incarnation=1))


async def ours(engine: Engine, count: int, *, locked: bool) -> tuple[float, float]:
    """Commands a second, and CPU seconds of this process for each."""
    claims = await engine.take()
    records = await engine.insert(count, locked=locked)
    async with CommandExecutor(engine.services()) as executor:
        began, used = boottime(), cpu_seconds()
        await executor.adopt(claims)
        await engine.until_succeeded(executor, records)
        return count / (boottime() - began), (cpu_seconds() - used) / count


async def floor(engine: Engine, url: str, count: int) -> float:
    records = await engine.insert(count, locked=False)
    claim = (await engine.take())[0]
    ids = [record.id for record in records]
    return count / await command_floor.floor_seconds(url, ids, claim.shard, claim.epoch)


async def measure_rate(server: LocalServer, url: str, kind: str, count: int, rounds: int) -> None:
    figures: dict[str, list[float]] = {}
    async with engine_on(server, url) as engine:
        await ours(engine, min(count, 50), locked=True)  # statements are compiled, connections open
        for _ in range(rounds):
            for locked, name in ((True, "locked"), (False, "without_locks")):
                rate, cpu = await ours(engine, count, locked=locked)
                figures.setdefault(name, []).append(rate)
                figures.setdefault(f"{name}.cpu", []).append(cpu)
            figures.setdefault("floor", []).append(await floor(engine, url, count))
    for name in ("locked", "without_locks", "floor"):
        target = " (at least 500)" if name == "locked" else ""
        say(f"rate.{kind}.{name}", statistics.median(figures[name]), f"commands/s{target}")
    of_floor = [ours / raw for ours, raw in zip(figures["locked"], figures["floor"], strict=True)]
    say(f"rate.{kind}.locked.of_the_floor", statistics.median(of_floor), "times")
    for name in ("locked", "without_locks"):
        say(f"rate.{kind}.{name}.cpu", statistics.median(figures[f"{name}.cpu"]) * 1e3, "ms/command")


# --- a long list -------------------------------------------------------------------------------------


async def measure_page(url: str, kind: str, count: int, rounds: int) -> None:
    """Pages of 100 of `count` commands that have ended: as the API reads them."""
    command = Noop(NoopArguments(about="vm-1"))
    row = new_record("noop", command, shard_of=lambda _: ShardId(0), user="", now=utcnow(), locks=_NONE)
    ended = replace(row, state=CommandState.SUCCEEDED, ended_at=row.created_at)
    began = row.created_at - timedelta(days=30)
    async with Database(url) as database:
        for first in range(0, count, 5000):
            some = [
                replace(
                    ended,
                    id=str(number),
                    entity_id=f"vm-{number % 1000}",
                    created_at=began + timedelta(seconds=number),
                )
                for number in range(first, min(first + 5000, count))
            ]
            async with database.writing() as connection:
                await store.insert(connection, some)
        commands = CommandStore(database)
        middle = (began + timedelta(seconds=count // 2), "")
        for name, query in _PAGES.items():
            taken = []
            for _ in range(rounds * 4):
                start = boottime()
                await commands.page(limit=100, **query(middle))
                taken.append(boottime() - start)
            say(f"page.{kind}.{name}", statistics.median(taken) * 1e3, f"ms of {count} (at most 50)")


_NONE: dict[str, list[str]] = {"exclusive": [], "shared": []}
_PAGES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "first": lambda _middle: {},
    "middle": lambda middle: {"after": middle},
    "by_state": lambda _middle: {"states": [CommandState.SUCCEEDED]},
    "by_absent_state": lambda _middle: {"states": [CommandState.NEEDS_OPERATOR]},
    "by_entity": lambda _middle: {"entity": "vm-7"},
}


# --- the whole ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def database_of(kind: str, directory: Path) -> Iterator[str]:
    """A migrated database of its own; PostgreSQL as durable as it comes."""
    if kind == "sqlite":
        url = f"sqlite+aiosqlite:///{directory}/engine.db"
        asyncio.run(migrate.upgrade(url))
        yield url
        return
    with LocalPostgres() as server:
        asyncio.run(migrate.upgrade(server.url()))
        yield server.url()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="rate,post,page,pickup", help="which parts, comma-separated")
    parser.add_argument("--database", default="postgresql,sqlite")
    parser.add_argument("--count", type=int, default=1000, help="commands in each round")
    parser.add_argument("--posts", type=int, default=100, help="posted one by one in each round")
    parser.add_argument("--listed", type=int, default=100_000, help="commands in the list")
    parser.add_argument("--running", type=int, default=200, help="commands on an engine that is killed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="few of each, one round")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.count, arguments.posts, arguments.listed, arguments.rounds = 60, 4, 1000, 1
        arguments.running = 10
    parts = arguments.only.split(",")
    logging.getLogger("kazoo").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="bench-commands-") as name:
        for kind in arguments.database.split(","):
            for part in parts:
                directory = Path(name) / kind / part
                directory.mkdir(parents=True)
                with database_of(kind, directory) as url:
                    measure(part, kind, url, directory, arguments)


def measure(part: str, kind: str, url: str, directory: Path, chosen: argparse.Namespace) -> None:
    if part == "rate":
        with LocalServer(directory / "zookeeper") as server:
            asyncio.run(measure_rate(server, url, kind, chosen.count, chosen.rounds))
            if kind == "postgresql":
                flows = str(min(chosen.count // 10, PEER_FLOWS))
                argv = [sys.executable, "-m", "tests.bench.command_peers", server.hosts, url, flows, "2"]
                subprocess.run(leashed(argv), check=True)
    elif part == "post":
        asyncio.run(measure_posts(directory, url, kind, say, number=chosen.posts, rounds=chosen.rounds))
    elif part == "pickup":
        asyncio.run(measure_pickup(directory, url, kind, say, number=chosen.running, rounds=chosen.rounds))
    elif part == "page":
        asyncio.run(measure_page(url, kind, chosen.listed, chosen.rounds))
    else:
        raise SystemExit(f"there is no part {part}: rate, post, page, pickup")


if __name__ == "__main__":
    main()
