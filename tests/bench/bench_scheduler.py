"""How many jobs a second two engines start and complete, and how late: real processes on PostgreSQL.

    python -m tests.bench.bench_scheduler [--only burst,steady,added,kill,peers] [--jobs N] [--seconds N]

    burst   jobs that are all due at one instant: started and completed a second
    steady  50 jobs a second: from due to start; beside it, in the same seconds, how long one process takes
            from an instant to the commit of one row on the same server
    added   jobs added through the API for now: from the request to the start
    kill    SIGKILL of the engine that runs a job: until the heir has started it again
    peers   the burst with APScheduler 4, procrastinate and Quartz, where they are there (see job_peers.py)

A job notes its own start. Prints `name: value unit`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import sqlalchemy as sa

from engine.coordination.session import SessionSettings
from engine.db.database import Database
from engine.db.local_postgres import LocalPostgres
from engine.db.tables import fire, schedule
from engine.local_cluster.cluster import LocalCluster
from engine.local_cluster.demo import SETTLE_SECONDS
from engine.local_cluster.layout import TICK_SECONDS, Layout
from engine.local_cluster.observer import Observer
from engine.local_cluster.state import StateDirectory
from engine.processes import leashed
from engine.scheduler.jobs.specification import Specification
from engine.scheduler.jobs.store import JobStore
from engine.scheduler.records import Origin, Schedule
from engine.sharding.hashing import shard_of
from tests.notes import Note, notes_in, noting

ENGINES = 2
AHEAD_SECONDS = 12.0
"""How long before they are due jobs are there: longer than an engine takes to look by itself."""
PEERS = ("apscheduler4", "procrastinate", "quartz")


def say(name: str, value: float, unit: str, note: str = "") -> None:
    print(f"{name}: {value:.1f} {unit}{'  # ' + note if note else ''}", flush=True)


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


@dataclass(frozen=True)
class Site:
    cluster: LocalCluster
    database: Database
    observer: Observer
    notes: Path

    async def load(self, moments: Sequence[datetime], name: str, **values: object) -> list[Schedule]:
        """Jobs that run once each, put straight into the database."""
        now = await JobStore(self.database).now()
        shards = self.cluster.layout.shards
        jobs = [
            Specification.parse(
                {"name": f"{name}-{n}", "task": "noted", "at": at.isoformat(), **values}
            ).build(now=now, shard_of=lambda id: shard_of(id, shards), origin=Origin.USER)
            for n, at in enumerate(moments)
        ]
        async with self.database.writing() as connection:
            await connection.execute(schedule.insert(), [job.columns() for job in jobs])
        return jobs

    async def now(self) -> datetime:
        return await JobStore(self.database).now()

    async def completed(self, count: int, *, seconds: float) -> float:
        """When so many runs were seen to have ended, as seconds since 1970."""
        query = sa.select(sa.func.count(), sa.func.clock_timestamp()).where(fire.c.ended_at.is_not(None))
        async with asyncio.timeout(seconds):
            while True:
                async with self.database.reading() as connection:
                    found, at = (await connection.execute(query)).one()
                if found >= count:
                    return float(at.timestamp())
                await asyncio.sleep(0.05)

    async def floor(self, begin: datetime, count: int, *, rate: float) -> list[float]:
        """At so many instants: milliseconds until one row was committed, with nothing but a connection."""
        took = []
        async with self.database.writing() as connection:
            await connection.execute(sa.text("CREATE TABLE beside (number integer)"))
        for number in range(count):
            due = begin.timestamp() + number / rate
            await asyncio.sleep(max(0.0, due - time.time()))
            async with self.database.writing() as connection:
                await connection.execute(sa.text("INSERT INTO beside VALUES (1)"))
            took.append((time.time() - due) * 1000)
        return took

    async def noted(self, wanted: Callable[[list[Note]], bool], *, seconds: float) -> list[Note]:
        async with asyncio.timeout(seconds):
            while not wanted(notes := await asyncio.to_thread(notes_in, self.notes)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return notes


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    """Two engines, the API and PostgreSQL (fsync on); no hosts."""
    with (
        tempfile.TemporaryDirectory(prefix="engine-bench-") as path,
        noting(Path(path)) as notes,
        LocalPostgres() as server,
    ):
        layout = Layout(
            engines=ENGINES,
            hosts=0,
            api_port=0,
            zk_port=0,
            host_port=0,
            api_workers=1,
            database_url=server.url(),
        )
        async with LocalCluster(
            layout, StateDirectory(Path(path) / "state"), progress=lambda _: None
        ) as cluster:
            await cluster.ready()
            assert cluster.zookeeper is not None
            settings = SessionSettings(hosts=cluster.zookeeper.hosts, tick_seconds=TICK_SECONDS)
            async with Database(server.url()) as database, Observer.watching(settings) as observer:
                await observer.settled(set(cluster.engines), layout.shards, seconds=SETTLE_SECONDS)
                yield Site(cluster, database, observer, notes)


async def burst(jobs: int) -> None:
    async with site() as here:
        due = await here.now() + timedelta(seconds=AHEAD_SECONDS + jobs / 2000)
        await here.load([due] * jobs, "burst")
        late = (await here.now() - due).total_seconds()
        last_end = await here.completed(jobs, seconds=AHEAD_SECONDS + 120)
        notes = await here.noted(lambda notes: len(notes) >= jobs, seconds=10)
    shares = [sum(note.pid == pid for note in notes) for pid in sorted({note.pid for note in notes})]
    name = f"scheduler.burst_{jobs}.{ENGINES}_engines"
    told = f"target=2000 loaded {-late:.0f} s ahead, shares {'/'.join(map(str, shares))}"
    say(f"{name}.started_and_completed", jobs / (last_end - due.timestamp()), "jobs/s", told)
    say(f"{name}.started", jobs / (notes[-1].at - due.timestamp()), "jobs/s")
    say(f"{name}.double_starts", len(notes) - len({note.job for note in notes}), "jobs")
    say(f"{name}.due_to_start_p50", percentile([note.late for note in notes], 0.5) * 1000, "ms")


async def steady(rate: int, seconds: float) -> None:
    async with site() as here:
        begin = await here.now() + timedelta(seconds=AHEAD_SECONDS)
        count = int(rate * seconds)
        await here.load([begin + timedelta(seconds=n / rate) for n in range(count)], "steady")
        floor = await here.floor(begin, int(seconds * 10), rate=10)
        notes = await here.noted(lambda notes: len(notes) >= count, seconds=30)
    late = [note.late * 1000 for note in notes]
    for share, target in ((0.5, 10), (0.99, 100)):
        name, beside = f"scheduler.steady_{rate}.p{share * 100:.0f}", percentile(floor, share)
        say(f"{name}.due_to_start", percentile(late, share), "ms", f"target={target}")
        say(f"{name}.instant_to_one_row_committed", beside, "ms", "one process beside it")


async def added(count: int) -> None:
    """One request after another, so that none waits for one before it."""
    took = []
    async with site() as here, httpx.AsyncClient(base_url=here.cluster.api_url, timeout=30) as client:
        for number in range(count + 5):
            wall = (await here.now()).timestamp()
            body = {"name": f"added-{number}", "at": "now", "task": "noted"}
            answer = (await client.post("/v1/jobs", json=body)).raise_for_status().json()
            notes = await here.noted(lambda notes, id=answer["id"]: notes and notes[-1].job == id, seconds=30)  # type: ignore[misc]
            if number >= 5:  # connections and plans are warm
                took.append((notes[-1].at - wall) * 1000)
    say("scheduler.added_for_now.request_to_start_p50", percentile(took, 0.5), "ms", "target=50")
    say("scheduler.added_for_now.request_to_start_p99", percentile(took, 0.99), "ms")


async def kill(times: int) -> None:
    took = []
    async with site() as here:
        everyone, shards = set(here.cluster.engines), here.cluster.layout.shards
        for number in range(times):
            now = await here.now()
            values = {"recovery": "rerun", "arguments": {"sleep": 600_000}}
            (job,) = await here.load([now + timedelta(seconds=7)], f"kill-{number}", **values)
            mine = await here.noted(lambda n, id=job.id: any(x.job == id for x in n), seconds=30)  # type: ignore[misc]
            pid = next(note.pid for note in mine if note.job == job.id)
            engine, seen = next((e, m) for e, m in here.observer.members().items() if m.pid == pid)
            killed = (await here.now()).timestamp()
            os.kill(pid, signal.SIGKILL)
            notes = await here.noted(lambda n, id=job.id: sum(x.job == id for x in n) > 1, seconds=60)  # type: ignore[misc]
            took.append([note.at for note in notes if note.job == job.id][1] - killed)
            await here.observer.replaced(engine, seen, seconds=SETTLE_SECONDS)
            await here.observer.settled(everyone, shards, seconds=SETTLE_SECONDS)
    note = f"kills={times} worst={max(took) * 1000:.0f} target=1000"
    say("scheduler.engine_killed.run_again_after", statistics.median(took) * 1000, "ms", note)


def peers(jobs: int, python: str) -> None:
    """Each in processes of its own, on a server of its own."""
    for name in PEERS:
        argv = [python, "-m", "tests.bench.job_peers", name, str(jobs), str(ENGINES)]
        subprocess.run(leashed(argv), check=True, cwd=Path(__file__).parents[2])


async def run(arguments: argparse.Namespace) -> None:
    only = arguments.only.split(",")
    if "burst" in only:
        await burst(arguments.jobs)
    if "steady" in only:
        await steady(50, arguments.seconds)
    if "added" in only:
        await added(arguments.added)
    if "kill" in only:
        await kill(arguments.kills)
    if "peers" in only:
        await asyncio.to_thread(peers, arguments.peer_jobs, arguments.peers_python)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="burst,steady,added,kill,peers", help="comma list of parts")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--added", type=int, default=100)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--peer-jobs", type=int, default=1000)
    parser.add_argument("--peers-python", default=sys.executable, help="an interpreter that has the peers")
    asyncio.run(run(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
