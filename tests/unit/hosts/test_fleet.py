"""A fleet over scripted hosts and rows in memory, in real time with short ticks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import pytest

from engine.errors import NotFound
from engine.hosts.fleet import FleetStore, HostFleet
from engine.hosts.options import MonitorSettings
from engine.hosts.owned.store import OwnedHostStore
from engine.hosts.records import Placement, WatchedHost
from engine.hosts.status import HostStatus, Timings
from engine.plugin import ClusterId, HostId, ShardId
from tests.unit.hosts.scripted import ME, Claim, MemoryStore, ScriptedDriver, eventually, row

S = HostStatus
FAST = MonitorSettings(
    tick_seconds=0.05,
    statistics_seconds=0.1,
    flush_seconds=0.0,
    refresh_seconds=0.1,
    timings=Timings(grace_seconds=0.2),
)


def fleet_over(
    store: MemoryStore,
    driver: ScriptedDriver,
    settings: MonitorSettings = FAST,
    on_fenced: Callable[[frozenset[ShardId]], None] | None = None,
    clusters: Mapping[ClusterId, MonitorSettings] | None = None,
) -> HostFleet:
    return HostFleet(
        engine=ME,
        drivers={"scripted": driver},
        store=store,
        settings=settings,
        clusters=clusters,
        on_fenced=on_fenced,
    )


def claims(*shards: int, epoch: int = 1) -> list[Claim]:
    return [Claim(ShardId(shard), epoch) for shard in shards]


def test_the_real_store_is_one_for_a_fleet() -> None:
    store: type[FleetStore] = OwnedHostStore
    assert store is OwnedHostStore


async def test_the_hosts_of_adopted_shards_come_up_and_no_others() -> None:
    store = MemoryStore(*(row(f"h{number}", shard=number % 4) for number in range(40)))
    driver = ScriptedDriver()
    async with fleet_over(store, driver) as fleet:
        await fleet.adopt(claims(0, 1))
        assert len(fleet.monitors) == 20
        await eventually(lambda: len(store.statuses()) == 20)
        assert set(store.statuses().values()) == {S.UP}
        await eventually(lambda: fleet.monitors.connected == 20)
        assert fleet.monitors.find(HostId("h0")).state.status is S.UP
        assert fleet.monitors.find(HostId("h0")).vms.statuses == {"vm-1": "Up", "vm-2": "Up"}
        with pytest.raises(NotFound):
            fleet.monitors.find(HostId("h2"))
    assert {name for name, host in driver.hosts.items() if host.asked} == {
        f"h{number}" for number in range(40) if number % 4 < 2
    }
    assert all(host.open_connections == 0 for host in driver.hosts.values())


async def test_hosts_that_are_up_are_asked_again_and_again() -> None:
    store, driver = MemoryStore(row("h")), ScriptedDriver()
    async with fleet_over(store, driver) as fleet:
        await fleet.adopt(claims(0))
        await eventually(lambda: driver.host("h").asked.count("statistics") >= 5)
        assert fleet.counters.lateness.count >= 4
        assert fleet.counters.loop_lag.count > 0


async def test_however_many_hosts_are_due_at_once_the_loop_has_its_turn_between_some_of_them() -> None:
    hosts = 2_000
    store = MemoryStore(*(row(f"h{number}", shard=number % 4) for number in range(hosts)))
    together = replace(FAST, tick_seconds=0.05, statistics_seconds=0.05)  # one slice: all are due with it
    async with fleet_over(store, ScriptedDriver(), together) as fleet:
        await fleet.adopt(claims(0, 1, 2, 3))
        most, before = 0, fleet.counters.polls
        while fleet.counters.polls < 5 * hosts:
            await asyncio.sleep(0)  # a turn of the loop
            polls = fleet.counters.polls
            most, before = max(most, polls - before), polls
    assert 0 < most <= 200  # 2,000 in one turn, were they begun together


async def test_a_silent_host_connects_then_is_non_responsive_and_comes_back() -> None:
    store, driver = MemoryStore(row("h")), ScriptedDriver()
    async with fleet_over(store, driver) as fleet:
        await fleet.adopt(claims(0))
        await eventually(lambda: store.statuses().get("h") is S.UP)
        driver.host("h").reachable = False
        await eventually(lambda: store.statuses()["h"] is S.NON_RESPONSIVE)
        driver.host("h").reachable = True
        await eventually(lambda: store.statuses()["h"] is S.UP)
    told = [change.status for report in store.written for change in report.changes]
    assert told == [S.UP, S.CONNECTING, S.NON_RESPONSIVE, S.UP]


async def test_a_takeover_changes_no_status_of_hosts_that_were_fine() -> None:
    store = MemoryStore(*(row(f"h{number}", S.UP) for number in range(10)), row("m", S.MAINTENANCE))
    driver = ScriptedDriver()
    async with fleet_over(store, driver) as fleet:
        await fleet.adopt(claims(0))
        await eventually(lambda: len({report.host_id for report in store.written}) == 10)
    assert store.statuses() == {}
    assert "m" not in driver.hosts


async def test_after_a_release_nothing_acts_and_the_last_report_is_written() -> None:
    store = MemoryStore(*(row(f"h{number}", shard=number % 2) for number in range(10)))
    driver = ScriptedDriver()
    settings = replace(FAST, flush_seconds=60.0)
    async with fleet_over(store, driver, settings) as fleet:
        first, second = claims(0, 1)
        await fleet.adopt([first, second])
        await eventually(lambda: fleet.monitors.connected == 10)
        await eventually(lambda: fleet.waiting_reports == 10)
        await fleet.release([first])
        assert set(store.statuses()) == {f"h{number}" for number in range(0, 10, 2)}
        assert len(fleet.monitors) == 5
        released = [driver.host(f"h{number}") for number in range(0, 10, 2)]
        assert all(host.open_connections == 0 for host in released)
        asked = [len(host.asked) for host in released]
        kept = len(driver.host("h1").asked)
        await eventually(lambda: len(driver.host("h1").asked) > kept + 4)
        assert [len(host.asked) for host in released] == asked


async def test_a_release_waits_for_a_round_in_progress_and_ends_it() -> None:
    store, driver = MemoryStore(row("h")), ScriptedDriver()
    driver.host("h").silent = True
    async with fleet_over(store, driver) as fleet:
        (claim,) = claims(0)
        await fleet.adopt([claim])
        await eventually(lambda: driver.host("h").asked == ["capabilities"])
        async with asyncio.timeout(10):
            await fleet.release([claim])
        assert (driver.host("h").open_connections, store.written) == (0, [])


async def test_a_release_while_the_database_hangs_ends_all_the_same() -> None:
    store, driver = MemoryStore(row("h")), ScriptedDriver()
    async with fleet_over(store, driver) as fleet:
        (claim,) = claims(0)
        await fleet.adopt([claim])
        store.away = True
        await fleet.release([claim])
        assert (len(fleet.monitors), fleet.waiting_reports) == (0, 0)


async def test_an_abandoned_shard_is_let_go_of_before_the_call_returns() -> None:
    store = MemoryStore(*(row(f"h{number}") for number in range(5)))
    driver = ScriptedDriver()
    settings = replace(FAST, flush_seconds=60.0)
    async with fleet_over(store, driver, settings) as fleet:
        (claim,) = claims(0)
        await fleet.adopt([claim])
        await eventually(lambda: fleet.monitors.connected == 5)
        fleet.abandon([claim])
        asked = {name: len(host.asked) for name, host in driver.hosts.items()}
        assert (len(fleet.monitors), fleet.waiting_reports) == (0, 0)
        await eventually(lambda: all(host.open_connections == 0 for host in driver.hosts.values()))
        assert {name: len(host.asked) for name, host in driver.hosts.items()} == asked
    assert store.written == []


async def test_a_shard_with_a_later_owner_is_let_go_of_and_told_of() -> None:
    store = MemoryStore(row("a", shard=0), row("b", shard=1))
    driver, told = ScriptedDriver(), list[frozenset[ShardId]]()
    async with fleet_over(store, driver, on_fenced=told.append) as fleet:
        store.stale = {ShardId(1)}
        await fleet.adopt(claims(0, 1))
        await eventually(lambda: bool(told))
        assert told == [frozenset({ShardId(1)})]
        assert len(fleet.monitors) == 1
        await eventually(lambda: driver.host("b").open_connections == 0)
        await eventually(lambda: store.statuses() == {"a": S.UP})


async def test_a_shard_adopted_again_is_watched_under_its_later_epoch() -> None:
    store, driver = MemoryStore(row("h")), ScriptedDriver()
    async with fleet_over(store, driver) as fleet:
        await fleet.adopt(claims(0, epoch=1))
        await eventually(lambda: fleet.monitors.connected == 1)
        await fleet.adopt(claims(0, epoch=2))
        await eventually(lambda: driver.host("h").targets[-1].epoch == 2)
        await eventually(lambda: driver.host("h").open_connections == 1)
        await eventually(lambda: bool(store.written) and store.written[-1].epoch == 2)


async def test_rows_that_were_added_moved_or_removed_are_noticed() -> None:
    store, driver = MemoryStore(row("a"), row("b")), ScriptedDriver()
    slow = replace(FAST, refresh_seconds=600.0)
    async with fleet_over(store, driver, slow) as fleet:
        await fleet.adopt(claims(0))
        await eventually(lambda: fleet.monitors.connected == 2)
        store.rows = [replace(row("a"), address="elsewhere"), row("c")]
        await fleet.refresh([ShardId(0), ShardId(7)])
        assert len(fleet.monitors) == 2
        await eventually(
            lambda: (driver.host("a").open_connections, driver.host("b").open_connections) == (0, 0)
        )
        await eventually(lambda: fleet.monitors.connected == 2)
        assert driver.host("elsewhere").open_connections == 1
        assert driver.host("c").open_connections == 1
        with pytest.raises(NotFound):
            fleet.monitors.find(HostId("b"))
        await eventually(lambda: set(store.statuses()) == {"a", "b", "c"})
    # A host that moved keeps the status that is in memory; its row may be older.
    assert [change.status for one in store.written if one.name == "a" for change in one.changes] == [S.UP]


async def test_a_row_whose_notice_was_lost_is_found_all_the_same() -> None:
    store, driver = MemoryStore(), ScriptedDriver()
    async with fleet_over(store, driver) as fleet:
        await fleet.adopt(claims(3))
        store.rows.append(row("late", shard=3))
        await eventually(lambda: fleet.monitors.connected == 1)


async def test_a_takeover_while_the_database_is_away_is_made_up_for() -> None:
    class WithoutFallback(MemoryStore):
        async def placements(self, shards: Collection[ShardId]) -> list[Placement]:
            return []

    store, driver = WithoutFallback(row("h", S.UP)), ScriptedDriver()
    store.away = True
    async with fleet_over(store, driver) as fleet:
        await fleet.adopt(claims(0))
        assert len(fleet.monitors) == 0
        store.away = False
        await eventually(lambda: fleet.monitors.connected == 1)


async def test_shards_released_while_their_rows_are_read_are_not_watched() -> None:
    class Slow(MemoryStore):
        reading = asyncio.Event()
        go_on = asyncio.Event()

        async def for_shards(self, shards: Collection[ShardId]) -> list[WatchedHost]:
            self.reading.set()
            await self.go_on.wait()
            return await super().for_shards(shards)

    store, driver = Slow(row("h")), ScriptedDriver()
    async with fleet_over(store, driver) as fleet, asyncio.TaskGroup() as tasks:
        (claim,) = claims(0)
        adopting = tasks.create_task(fleet.adopt([claim]))
        await store.reading.wait()
        await fleet.release([claim])
        store.go_on.set()
        await adopting
        assert len(fleet.monitors) == 0
    assert driver.hosts == {}


async def test_a_host_is_never_asked_two_things_at_once() -> None:
    store, driver = MemoryStore(row("h", S.UP)), ScriptedDriver()
    async with fleet_over(store, driver) as fleet:
        await fleet.adopt(claims(0))
        await eventually(lambda: driver.host("h").asked.count("statistics") >= 3)
        driver.host("h").silent = True
        await eventually(lambda: fleet.counters.polls >= 4)
        began, asked = fleet.counters.loop_lag.count, len(driver.host("h").asked)
        await eventually(lambda: fleet.counters.loop_lag.count >= began + 20)
        assert len(driver.host("h").asked) <= asked + 1


async def test_a_round_without_end_is_cut_short_and_the_host_tried_again() -> None:
    store, driver = MemoryStore(row("h", S.UP)), ScriptedDriver()
    driver.host("h").silent = True
    async with fleet_over(store, driver, replace(FAST, round_deadline_seconds=0.1)) as fleet:
        await fleet.adopt(claims(0))
        await eventually(lambda: store.statuses().get("h") is S.CONNECTING)
        driver.host("h").silent = False
        await eventually(lambda: store.statuses()["h"] is S.UP)


async def test_thousands_adopted_at_once_are_asked_a_few_at_a_time() -> None:
    store = MemoryStore(*(row(f"h{number}", S.UP) for number in range(1000)))
    driver = ScriptedDriver()
    connecting = most = 0

    async def hold() -> None:
        nonlocal connecting, most
        connecting += 1
        most = max(most, connecting)
        await asyncio.sleep(0)
        connecting -= 1

    driver.hold = hold
    settings = MonitorSettings(connects=20)
    async with fleet_over(store, driver, settings) as fleet:
        await fleet.adopt(claims(0))
        await eventually(lambda: fleet.monitors.connected == 1000)
        assert most <= 20


async def test_leaving_a_fleet_leaves_no_task_and_no_connection() -> None:
    store = MemoryStore(*(row(f"h{number}") for number in range(10)))
    driver = ScriptedDriver()
    driver.host("h3").silent = True
    before = asyncio.all_tasks()
    async with fleet_over(store, driver) as fleet:
        await fleet.adopt(claims(0))
        await eventually(lambda: fleet.monitors.connected == 10)
    assert asyncio.all_tasks() == before
    assert all(host.open_connections == 0 for host in driver.hosts.values())


async def test_a_beat_that_fails_ends_the_fleet_loudly() -> None:
    class Broken(RuntimeError):
        pass

    broken = False

    def clock() -> float:
        if broken:
            raise Broken
        return asyncio.get_running_loop().time()

    store, driver = MemoryStore(), ScriptedDriver()
    fleet = HostFleet(engine=ME, drivers={"scripted": driver}, store=store, settings=FAST, clock=clock)

    async def run() -> None:
        nonlocal broken
        async with asyncio.timeout(10), fleet:
            broken = True
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as failed:
        await run()
    assert failed.group_contains(Broken)


async def test_a_host_is_not_asked_over_a_connection_that_was_made_in_spite_of_the_end() -> None:
    store, driver = MemoryStore(row("h")), ScriptedDriver()
    held, go = asyncio.Event(), asyncio.Event()

    async def keeps_cancellations_to_itself() -> None:
        held.set()
        with contextlib.suppress(asyncio.CancelledError):
            await go.wait()
        await go.wait()

    driver.hold = keeps_cancellations_to_itself
    async with fleet_over(store, driver) as fleet:
        (claim,) = claims(0)
        await fleet.adopt([claim])
        await held.wait()
        fleet.abandon([claim])
        go.set()
    assert driver.host("h").asked == []
    assert [connection.lost.is_set() for connection in driver.host("h").connections] == [True]


async def test_hosts_of_one_cluster_have_settings_of_their_own_and_change_them_live() -> None:
    lazy = replace(FAST, tick_seconds=60.0, statistics_seconds=3600.0)
    paris = ClusterId("paris")
    rows = [row("a", S.UP), replace(row("p", S.UP), cluster_id=paris)]
    store, driver = MemoryStore(*rows), ScriptedDriver()
    asked = {name: driver.host(name).asked for name in ("a", "p")}
    async with fleet_over(store, driver, lazy, clusters={paris: FAST}) as fleet:
        await fleet.adopt(claims(0))
        await eventually(lambda: asked["p"].count("statistics") >= 5)
        assert asked["a"].count("statistics") == 1
        fleet.reconfigure(FAST, {paris: lazy})
        lately = asked["p"].count("statistics")
        await eventually(lambda: asked["a"].count("statistics") >= 6)
        assert asked["p"].count("statistics") <= lately + 1
        fleet.reconfigure(FAST)
        await eventually(lambda: asked["p"].count("statistics") >= lately + 5)


async def test_a_host_that_goes_to_another_cluster_has_its_settings_from_then_on() -> None:
    lazy = replace(FAST, tick_seconds=60.0, statistics_seconds=3600.0)
    store, driver = MemoryStore(row("h", S.UP)), ScriptedDriver()
    asked = driver.host("h").asked
    async with fleet_over(
        store, driver, replace(lazy, refresh_seconds=0.1), clusters={ClusterId("paris"): FAST}
    ) as fleet:
        await fleet.adopt(claims(0))
        await eventually(lambda: "statistics" in asked)
        store.rows[0] = replace(store.rows[0], cluster_id=ClusterId("paris"))
        await eventually(lambda: asked.count("statistics") >= 5)
        assert driver.host("h").open_connections == 1
