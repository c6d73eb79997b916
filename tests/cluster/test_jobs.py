"""Jobs on real engines, while these are killed and frozen, the database is restarted and clocks are set.

No attempt of a run is started twice. No planned time is missed by jobs that are run again when their engine
dies; by others at most one for each engine that died or was overtaken with it in hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from engine.coordination.session import SessionSettings
from engine.db.database import Database
from engine.db.local_postgres import LocalPostgres
from engine.db.tables import fire, schedule
from engine.errors import Unavailable
from engine.local_cluster.layout import TICK_SECONDS, Layout
from engine.local_cluster.observer import Observer, Seen
from engine.local_cluster.state import StateDirectory
from engine.scheduler.jobs.specification import Specification
from engine.scheduler.jobs.store import JobStore
from engine.scheduler.records import Fire, FireState, Origin, Recovery
from engine.sharding.hashing import shard_of
from tests.cluster.wallclock import JumpingCluster
from tests.notes import notes_in, noting

pytestmark = pytest.mark.timeout(300)

SETTLE_SECONDS = 240.0
END_SECONDS = 900.0
FROZEN_SECONDS = 6.0
"""Longer than a session lasts."""
AHEAD = timedelta(seconds=4)
RECOVERIES = ("fail", "rerun")
HOUR = 3600
JUMPED_SECONDS = 5.0
"""Longer than a session lasts: authority that was counted on the wall clock would be over."""


@dataclass(frozen=True)
class Site:
    cluster: JumpingCluster
    database: Database
    observer: Observer
    postgres: LocalPostgres
    notes: Path

    async def load(self, jobs: int, seconds: int) -> tuple[datetime, set[str], set[str]]:
        """Jobs of each second, spread over it; when the first is due, their ids, and those to be rerun."""
        now = await JobStore(self.database).now()
        begin = now + AHEAD
        shards = self.cluster.layout.shards
        built = []
        for number in range(jobs):
            start = begin + timedelta(seconds=number / jobs)
            wanted = Specification.parse(
                {
                    "name": f"each-second-{number}",
                    "task": "noted",
                    "every": 1,
                    "recovery": RECOVERIES[number % 2],
                    "start": start.isoformat(),
                    "end": (start + timedelta(seconds=seconds - 1)).isoformat(),
                    "grace": "10m",
                    "keep": 1000,
                }
            )
            built.append(wanted.build(now=now, shard_of=lambda id: shard_of(id, shards), origin=Origin.USER))
        async with self.database.writing() as connection:
            await connection.execute(schedule.insert(), [job.columns() for job in built])
        rerun = {job.id for job in built if job.recovery is Recovery.RERUN}
        return begin, {job.id for job in built}, rerun

    async def runs(self) -> list[Fire]:
        found: list[Fire] = []
        for shard in range(self.cluster.layout.shards):
            async with self.database.reading() as connection:
                rows = (await connection.execute(sa.select(fire).where(fire.c.shard == shard))).all()
            found += [Fire.from_row(row) for row in rows]
        return found

    async def left(self) -> int:
        """Jobs with a planned time, and runs that have not ended."""
        planned = sa.select(sa.func.count()).where(schedule.c.next_fire_at.is_not(None))
        going = sa.select(sa.func.count()).where(fire.c.ended_at.is_(None))
        async with self.database.reading() as connection:
            return sum([(await connection.execute(query)).scalar_one() for query in (planned, going)])

    async def over(self) -> None:
        async with asyncio.timeout(END_SECONDS):
            while True:
                with contextlib.suppress(Unavailable):
                    if not await self.left():
                        return
                await asyncio.sleep(0.2)

    async def settled(self) -> None:
        engines, shards = set(self.cluster.engines), self.cluster.layout.shards
        await self.observer.settled(engines, shards, seconds=SETTLE_SECONDS)

    # --- trouble ----------------------------------------------------------------------------------

    async def kill(self, engine: str) -> None:
        seen = self.observer.members()[engine]
        os.kill(seen.pid, signal.SIGKILL)
        await self.observer.replaced(engine, seen, seconds=SETTLE_SECONDS)
        await self.settled()

    async def freeze(self, engine: str) -> None:
        """For longer than its session lasts; then it wakes up and finds that it was overtaken."""
        seen = self.observer.members()[engine]
        os.kill(seen.pid, signal.SIGSTOP)
        await asyncio.sleep(FROZEN_SECONDS)
        with contextlib.suppress(ProcessLookupError):  # its supervisor may have given it up meanwhile
            os.kill(seen.pid, signal.SIGCONT)
        await self.observer.replaced(engine, seen, seconds=SETTLE_SECONDS)
        await self.settled()

    async def set_clocks(self) -> None:
        """Each engine's wall clock an hour ahead, an hour back and right again, no two alike."""
        for turn in range(3):
            for number, engine in enumerate(sorted(self.cluster.engines)):
                self.cluster.jump(engine, (HOUR, -HOUR, 0)[(turn + number) % 3])
            await asyncio.sleep(JUMPED_SECONDS)
        for engine in self.cluster.engines:
            self.cluster.jump(engine, 0)

    def authority(self) -> tuple[Mapping[str, Seen], int]:
        """Who is there under which session, and how often a shard was taken so far."""
        return self.observer.members(), sum(map(len, self.observer.taken.values()))

    async def restart_database(self) -> None:
        await asyncio.to_thread(self.postgres.restart)


@pytest.fixture
async def site(tmp_path: Path, own_postgres: LocalPostgres) -> AsyncIterator[Site]:
    with noting(tmp_path) as notes:
        layout = Layout(
            engines=3,
            hosts=0,
            api_port=0,
            zk_port=0,
            host_port=0,
            shards=32,
            api_workers=1,
            database_url=own_postgres.url(),
        )
        directory = StateDirectory(tmp_path / "state")
        async with JumpingCluster(layout, directory, progress=lambda _: None) as cluster:
            await cluster.ready()
            assert cluster.zookeeper is not None
            settings = SessionSettings(hosts=cluster.zookeeper.hosts, tick_seconds=TICK_SECONDS)
            async with Database(own_postgres.url()) as database, Observer.watching(settings) as observer:
                site = Site(cluster, database, observer, own_postgres, notes)
                await site.settled()
                yield site


async def check(
    site: Site, jobs: int, seconds: int, *, deaths: int, trouble: Callable[[], Awaitable[None]]
) -> None:
    begin, ids, rerun = await site.load(jobs, seconds)
    making = asyncio.ensure_future(trouble())
    await site.over()
    await making
    runs, notes = await site.runs(), notes_in(site.notes)

    starts = Counter((note.job, note.planned_at) for note in notes)
    attempts = {run.key: run.attempt for run in runs}
    doubled = [run for run, count in starts.items() if count > attempts[run]]
    assert doubled == [], "an attempt was started twice"
    planned = Counter(run.schedule_id for run in runs)
    assert planned == dict.fromkeys(ids, seconds), "a planned time has no run, or there is one too many"
    assert min(run.fire_at for run in runs) == begin
    done = {run.key for run in runs if run.state is FireState.SUCCEEDED}
    assert done <= starts.keys(), "a run is said to have succeeded that was never started"
    lost = [run for run in runs if run.state is not FireState.SUCCEEDED]
    most = Counter(run.schedule_id for run in lost).most_common(3)
    told = f"of {len(runs)}: {Counter((run.state, run.error) for run in lost)}; most of one job: {most}"
    assert all(re.fullmatch(r"engine engine-\d stopped while it ran", run.error) for run in lost), told
    assert all(count <= deaths for _job, count in most), told
    assert not rerun & {run.schedule_id for run in lost}, told
    assert all(attempts[run.key] == 1 for run in runs if run.schedule_id not in rerun), told


async def test_no_planned_time_runs_twice_and_none_is_lost_while_engines_and_the_database_fail(
    site: Site,
) -> None:
    async def trouble() -> None:
        await asyncio.sleep(AHEAD.total_seconds() + 2)
        await site.kill("engine-1")
        await site.restart_database()
        await site.freeze("engine-2")

    await check(site, 60, 20, deaths=2, trouble=trouble)


async def test_wall_clocks_that_jump_by_an_hour_cost_no_run_and_no_authority(site: Site) -> None:
    before = site.authority()

    async def trouble() -> None:
        await asyncio.sleep(AHEAD.total_seconds() + 1)
        await site.set_clocks()

    await check(site, 60, 18, deaths=0, trouble=trouble)
    assert site.authority() == before
    told = {round(note.late / HOUR) for note in notes_in(site.notes)}
    assert told == {-1, 0, 1}, "the clocks of the engines did not jump"


@pytest.mark.soak
@pytest.mark.timeout(2400)
async def test_it_holds_for_two_thousand_jobs_over_a_minute(site: Site) -> None:
    async def trouble() -> None:
        await asyncio.sleep(AHEAD.total_seconds() + 2)
        for number in range(2):
            await site.kill(f"engine-{1 + number % 3}")
            await site.freeze(f"engine-{1 + (number + 1) % 3}")
            await site.restart_database()
            await site.set_clocks()

    await check(site, 2000, 60, deaths=4, trouble=trouble)
