"""Reports are gathered, survive a database that is away, and leave with their shard."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest

from engine.errors import OutcomeUnknown, Unavailable
from engine.hosts.measures import FleetCounters
from engine.hosts.options import MonitorSettings
from engine.hosts.records import HostReport, StatusChange
from engine.hosts.status import HostStatus
from engine.hosts.writer import ReportWriter
from engine.plugin import HostId, ShardId
from tests.unit.hosts.scripted import EPOCH_DAY, ME, MemoryStore, eventually

S = HostStatus


def report(host: str = "a", *statuses: HostStatus, shard: int = 0, second: int = 0) -> HostReport:
    at = EPOCH_DAY + timedelta(seconds=second)
    return HostReport(
        host_id=HostId(host),
        name=host,
        shard=ShardId(shard),
        epoch=1,
        changes=tuple(StatusChange(S.UP, status, "", at) for status in statuses),
        reported_at=at,
        statistics={"second": second},
    )


class Desk:
    """A writer over rows in memory."""

    def __init__(self, **settings: float) -> None:
        self.store = MemoryStore()
        self.counters = FleetCounters()
        self.stale: list[HostReport] = []
        self.writer = ReportWriter(
            self.store,
            engine=ME,
            settings=MonitorSettings(**{"flush_seconds": 0.0, **settings}),  # type: ignore[arg-type]
            counters=self.counters,
            on_stale=self._note,
        )

    def _note(self, stale: Sequence[HostReport]) -> None:
        self.stale += stale

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.writer.run(), name="writer")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def test_two_reports_of_a_host_merge_and_keep_each_change_of_status() -> None:
    first = report("a", S.CONNECTING, second=1)
    later = HostReport(
        host_id=HostId("a"),
        name="a",
        shard=ShardId(0),
        epoch=2,
        changes=report("a", S.UP, second=2).changes,
        capabilities={"cpu_cores": 1},
    )
    both = first.then(later)
    assert [change.status for change in both.changes] == [S.CONNECTING, S.UP]
    assert (both.epoch, both.capabilities, both.statistics) == (2, {"cpu_cores": 1}, {"second": 1})
    assert both.reported_at == first.reported_at
    many = both
    for _ in range(100):
        many = many.then(report("a", S.DOWN, S.UP))
    assert len(many.changes) == 16
    assert many.changes[-1].status is S.UP


async def test_what_comes_together_is_written_together_and_never_more_than_a_batch() -> None:
    desk = Desk(flush_rows=4)
    for host in range(10):
        desk.writer.put(report(str(host)))
    async with desk.open():
        await eventually(lambda: len(desk.store.written) == 10)
    assert desk.store.batches == [4, 4, 2]
    assert (desk.counters.reports_written, desk.writer.waiting) == (10, 0)


async def test_a_change_of_status_does_not_wait_as_long_as_a_routine_report() -> None:
    desk = Desk(flush_seconds=0.01)
    patient = Desk(flush_seconds=60.0)
    for each in (desk, patient):
        each.writer.put(HostReport(host_id=HostId("a"), name="a", shard=ShardId(0), epoch=1))
    async with desk.open(), patient.open():
        patient.writer.put(report("a"))
        desk.writer.put(report("b", S.CONNECTING))
        await eventually(lambda: len(desk.store.written) == 2)
        assert desk.store.batches == [2]
        assert patient.store.written == []


async def test_while_the_database_is_away_the_latest_waits_and_no_status_is_lost() -> None:
    desk = Desk()
    desk.store.away = True
    async with desk.open():
        desk.writer.put(report("a", S.CONNECTING, second=1))
        await eventually(lambda: desk.counters.flush_failures > 0)
        desk.writer.put(report("a", S.NON_RESPONSIVE, second=2))
        desk.writer.put(report("b", second=2))
        assert desk.writer.waiting == 2
        desk.store.away = False
        await eventually(lambda: desk.writer.waiting == 0)
    by_host = {one.host_id: one for one in desk.store.written}
    assert [change.status for change in by_host[HostId("a")].changes] == [S.CONNECTING, S.NON_RESPONSIVE]
    assert by_host[HostId("a")].statistics == {"second": 2}


@pytest.mark.parametrize("committed", [True, False])
async def test_no_change_is_told_twice_or_never_where_the_answer_to_a_commit_was_lost(
    committed: bool,
) -> None:
    desk = Desk()
    desk.store.lost = [committed]
    async with desk.open():
        desk.writer.put(report("a", S.CONNECTING, second=1))
        await eventually(lambda: desk.counters.flush_failures > 0)
        desk.writer.put(report("a", S.NON_RESPONSIVE, second=2))
        assert desk.writer.waiting == 1
        await eventually(lambda: desk.writer.waiting == 0 and S.NON_RESPONSIVE in told(desk))
    assert told(desk) == [S.CONNECTING, S.NON_RESPONSIVE]


def told(desk: Desk) -> list[HostStatus]:
    return [change.status for one in desk.store.written for change in one.changes]


async def test_what_is_doubtful_leaves_with_its_shard() -> None:
    desk = Desk()
    desk.store.lost = [False]
    desk.writer.put(report("a", S.CONNECTING, shard=0))
    with pytest.raises(OutcomeUnknown):
        await desk.writer.flush([ShardId(0)])
    desk.writer.forget([ShardId(0)])
    await desk.writer.flush([ShardId(0)])
    assert (desk.writer.waiting, desk.store.written) == (0, [])


async def test_reports_of_a_stale_shard_are_dropped_and_told_of() -> None:
    desk = Desk()
    desk.store.stale = {ShardId(1)}
    desk.writer.put(report("a", shard=0))
    desk.writer.put(report("b", shard=1))
    await desk.writer.flush([ShardId(0), ShardId(1)])
    assert [one.host_id for one in desk.store.written] == ["a"]
    assert [one.host_id for one in desk.stale] == ["b"]
    assert (desk.counters.reports_written, desk.counters.reports_dropped) == (1, 1)


async def test_one_report_that_cannot_be_written_costs_itself_only() -> None:
    desk = Desk()
    desk.store.poison = {HostId("7")}
    for host in range(20):
        desk.writer.put(report(str(host)))
    async with desk.open():
        await eventually(lambda: desk.writer.waiting == 0)
        await eventually(lambda: len(desk.store.written) == 19)
    assert desk.counters.faults == 1


async def test_a_flush_takes_the_shards_that_it_is_asked_for_and_fails_loudly() -> None:
    desk = Desk()
    desk.writer.put(report("a", shard=0))
    desk.writer.put(report("b", shard=1))
    await desk.writer.flush([ShardId(1)])
    assert [one.host_id for one in desk.store.written] == ["b"]
    desk.store.away = True
    with pytest.raises(Unavailable):
        await desk.writer.flush([ShardId(0)])
    assert desk.writer.waiting == 1
    desk.writer.forget([ShardId(0)])
    assert desk.writer.waiting == 0
