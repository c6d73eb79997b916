"""The whole path: simulated agents on their real wire, the VDSM driver, a fleet, a real database."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engine.db import events
from engine.db.database import Database
from engine.db.tables import shard
from engine.hosts.fleet import HostFleet
from engine.hosts.options import MonitorSettings
from engine.hosts.owned.store import OwnedHostStore
from engine.hosts.records import Host
from engine.hosts.status import HostStatus, Timings
from engine.hosts.store import HostStore
from engine.plugin import EngineId, ShardId
from plugins.drivers.vdsm import VdsmDriver
from plugins.simulator.fleet import Fleet
from plugins.simulator.host import SimulatedHost, bound_socket
from plugins.simulator.log import Request, WitnessLog, read_requests
from plugins.simulator.machines import Pace, VmStatus
from plugins.simulator.site import Power, Site
from plugins.simulator.witness import asked_by_two
from tests.contract.hosts.conftest import EPOCH, SHARDS
from tests.unit.hosts.scripted import HandheldAuthority

S = HostStatus
FAST = MonitorSettings(
    tick_seconds=0.05,
    statistics_seconds=0.15,
    flush_seconds=0.01,
    refresh_seconds=0.5,
    timings=Timings(grace_seconds=0.5, recovering_seconds=0.5),
)
ALL = [ShardId(number) for number in range(SHARDS)]


@dataclass(frozen=True)
class Claim:
    shard: ShardId
    authority: HandheldAuthority
    epoch: int = EPOCH


class Site3:
    """Three agents, their rows, and engines that come and go."""

    def __init__(self, agents: list[SimulatedHost], log: Path, store: HostStore, database: Database) -> None:
        self.agents = agents
        self.store = store
        self.database = database
        self._log = log
        self.rows: list[Host] = []

    async def add_all(self) -> None:
        for number, agent in enumerate(self.agents):
            await self.add(f"host-{number}", agent)

    async def add(self, name: str, agent: SimulatedHost) -> Host:
        added = await self.store.add(
            name=name, address="127.0.0.1", port=agent.port, driver="vdsm", shards=SHARDS
        )
        self.rows.append(added)
        return added

    @contextlib.asynccontextmanager
    async def engine(
        self, name: str = "a", epoch: int = EPOCH
    ) -> AsyncIterator[tuple[HostFleet, list[Claim]]]:
        """A fleet that has adopted all shards, and the claims it did so under."""
        driver = VdsmDriver({"connect_timeout": 0.5, "call_timeout": 0.5, "heartbeat_interval": 1.0})
        authority = HandheldAuthority()
        claims = [Claim(number, authority, epoch) for number in ALL]
        async with HostFleet(
            engine=EngineId(name),
            drivers={"vdsm": driver},
            store=OwnedHostStore(self.database),
            settings=FAST,
        ) as fleet:
            await fleet.adopt(claims)
            yield fleet, claims

    async def statuses(self) -> list[HostStatus]:
        return [host.status for host in (await self.store.page()).hosts]

    async def becomes(self, *expected: HostStatus, seconds: float = 15.0) -> None:
        async def condition() -> bool:
            return await self.statuses() == list(expected)

        await until(condition, seconds)

    async def told(self, index: int) -> list[str]:
        """What the events say of a host, oldest first."""
        async with self.database.reading() as connection:
            found = await events.page(connection, limit=100, kind="host_status", host_id=self.rows[index].id)
        return [event.data["to"] for event in reversed(found)]

    def requests(self) -> list[Request]:
        return read_requests(self._log)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - rows have no event
            await asyncio.sleep(0.01)


@pytest.fixture
async def site(tmp_path: Path, store: HostStore, database: Database) -> AsyncIterator[Site3]:
    async def power(port: int, action: Power) -> dict[str, Any]:
        return dict((await fleet.command("power", [port], {"action": action}))[port])

    log = WitnessLog(tmp_path / "log")
    async with Site(log=log, pace=Pace(), power=power) as simulated:
        sockets = [bound_socket(0) for _ in range(3)]
        ports = [sock.getsockname()[1] for sock in sockets]
        for sock in sockets:
            sock.close()
        async with (fleet := Fleet(simulated, ports)):
            made = Site3(list(fleet.hosts.values()), tmp_path / "log", store, database)
            await made.add_all()
            yield made


async def test_hosts_come_up_with_what_they_can_do_and_how_they_fare(site: Site3) -> None:
    site.agents[0].machines.place("vm-1", name="vm-1", memory_mb=512, status=VmStatus.UP)
    async with site.engine() as (fleet, _claims):
        await site.becomes(S.UP, S.UP, S.UP)
        host = await site.store.get("host-0")
        assert host.capabilities is not None
        assert host.capabilities["cpu_cores"] > 0
        assert host.statistics is not None
        assert host.statistics["vm_count"] == 1
        await until(lambda: _is(dict(fleet.monitors.find(host.id).vms.statuses) == {"vm-1": "Up"}))
        site.agents[0].emit("|virt|VM_status|vm-1", {"vm-1": {"status": "Paused"}})
        await until(lambda: _is(fleet.counters.events >= 1))
    assert await site.told(0) == ["up"]
    assert {(request.engine, request.epoch) for request in site.requests()} == {("a", EPOCH)}
    assert all(agent.open_connections == 0 for agent in site.agents)


async def test_reports_stay_fresh_while_a_host_is_up(site: Site3) -> None:
    async with site.engine():
        await site.becomes(S.UP, S.UP, S.UP)
        first = (await site.store.get("host-1")).reported_at
        assert first is not None

        async def later() -> bool:
            reported = (await site.store.get("host-1")).reported_at
            return reported is not None and reported > first

        await until(later)


async def test_a_host_that_falls_silent_connects_then_is_non_responsive_and_comes_back(site: Site3) -> None:
    async with site.engine():
        await site.becomes(S.UP, S.UP, S.UP)
        site.agents[1].faults.silent = True
        await site.becomes(S.UP, S.NON_RESPONSIVE, S.UP)
        site.agents[1].faults.clear()
        await site.becomes(S.UP, S.UP, S.UP)
    assert await site.told(1) == ["up", "connecting", "non_responsive", "up"]
    assert await site.told(0) == ["up"]


async def test_a_host_that_crashes_is_non_responsive_until_it_is_restored(site: Site3) -> None:
    async with site.engine():
        await site.becomes(S.UP, S.UP, S.UP)
        site.agents[2].crash()
        await site.becomes(S.UP, S.UP, S.NON_RESPONSIVE)
        await site.agents[2].restore()
        await site.becomes(S.UP, S.UP, S.UP)
        assert site.agents[2].open_connections == 1


async def test_a_recovering_agent_initializes_and_is_non_operational_when_it_takes_too_long(
    site: Site3,
) -> None:
    async with site.engine():
        await site.becomes(S.UP, S.UP, S.UP)
        site.agents[0].faults.error_code, site.agents[0].faults.error_left = 99, -1
        await site.becomes(S.INITIALIZING, S.UP, S.UP)
        await site.becomes(S.NON_OPERATIONAL, S.UP, S.UP)
    assert await site.told(0) == ["up", "initializing", "non_operational"]


async def test_a_busy_agent_keeps_its_status_and_is_asked_less(site: Site3) -> None:
    async with site.engine() as (fleet, _claims):
        await site.becomes(S.UP, S.UP, S.UP)
        site.agents[0].faults.error_code, site.agents[0].faults.error_left = 1100, 4
        await until(lambda: _is(fleet.counters.refusals == 4))
        before = site.agents[0].counters.requests
        await until(lambda: _is(site.agents[0].counters.requests > before + 2))
        assert await site.statuses() == [S.UP, S.UP, S.UP]
    assert await site.told(0) == ["up"]


async def test_a_takeover_keeps_statuses_and_asks_at_once_under_the_new_epoch(site: Site3) -> None:
    async with site.engine("a") as (first, claims):
        await site.becomes(S.UP, S.UP, S.UP)
        site.agents[1].refuse()
        await site.becomes(S.UP, S.NON_RESPONSIVE, S.UP)
        first.abandon(claims)  # as if killed
        async with site.database.writing() as connection:
            await connection.execute(shard.update().values(epoch=EPOCH + 1, owner="b"))
        async with site.engine("b", EPOCH + 1):
            await site.agents[1].restore()
            await site.becomes(S.UP, S.UP, S.UP)
            await until(lambda: _is({request.engine for request in site.requests()} == {"a", "b"}))
    assert await site.told(0) == ["up"]
    assert await site.told(1) == ["up", "connecting", "non_responsive", "up"]
    assert asked_by_two(site.requests()) == []


async def test_an_engine_that_was_overtaken_writes_nothing_and_lets_go(site: Site3) -> None:
    async with site.engine() as (fleet, _claims):
        await site.becomes(S.UP, S.UP, S.UP)
        async with site.database.writing() as connection:
            await connection.execute(shard.update().values(epoch=EPOCH + 1, owner="b"))
        site.agents[0].refuse()
        await until(lambda: _is(len(fleet.monitors) == 0))
        await until(lambda: _is(all(agent.open_connections == 0 for agent in site.agents)))
    assert await site.statuses() == [S.UP, S.UP, S.UP]


async def test_a_suspended_session_costs_no_host_its_status_or_its_connection(site: Site3) -> None:
    async with site.engine() as (fleet, claims):
        await site.becomes(S.UP, S.UP, S.UP)
        await until(lambda: _is(fleet.monitors.connected == 3))
        connections = [agent.counters.connections for agent in site.agents]
        claims[0].authority.suspended = True
        polls = fleet.counters.polls
        await until(lambda: _is(fleet.counters.polls > polls + 9))
        asked = len(site.requests())
        await until(lambda: _is(fleet.counters.polls > polls + 30))
        assert len(site.requests()) == asked
        claims[0].authority.suspended = False
        await until(lambda: _is(len(site.requests()) > asked + 6))
        assert [agent.counters.connections for agent in site.agents] == connections
    assert [await site.told(index) for index in range(3)] == [["up"]] * 3


async def test_hosts_whose_notice_was_lost_are_found_and_let_go_all_the_same(site: Site3) -> None:
    async with site.engine() as (fleet, _claims):
        await site.becomes(S.UP, S.UP, S.UP)
        await site.store.remove(site.rows[1].id)
        await until(lambda: _is(site.agents[1].open_connections == 0))
        await site.add("host-9", site.agents[1])
        await until(lambda: _is(fleet.monitors.connected == 3))


async def test_added_hosts_come_up_and_removed_hosts_are_let_go(site: Site3) -> None:
    async with site.engine() as (fleet, _claims):
        await site.becomes(S.UP, S.UP, S.UP)
        gone = site.rows[1]
        await site.store.remove(gone.id)
        await fleet.refresh([gone.shard])
        await until(lambda: _is(site.agents[1].open_connections == 0))
        again = await site.add("host-9", site.agents[1])
        await fleet.refresh([again.shard])
        await site.becomes(S.UP, S.UP, S.UP)
        assert site.agents[1].open_connections == 1


def _is(value: bool) -> Awaitable[bool]:
    future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    future.set_result(value)
    return future
