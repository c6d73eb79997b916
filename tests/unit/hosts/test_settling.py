"""What hosts say of their VMs is written for each of them, whatever another one says."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

import pytest

from engine.errors import Fenced, Unavailable
from engine.hosts.owned.vms.store import SettledHost
from engine.hosts.settling import Heard, VmSettler
from engine.plugin import EngineId, HostId, ShardId, VmId
from engine.scope import Scope
from tests.unit.hosts.scripted import ME, eventually

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class MemoryVms:
    """`poison`: hosts whose words raise this; `away` for so many calls."""

    def __init__(self) -> None:
        self.settled: list[HostId] = []
        self.poison: dict[HostId, Exception] = {}
        self.away = 0

    async def settle(self, hosts: Sequence[SettledHost], *, engine: EngineId) -> Collection[VmId]:
        await asyncio.sleep(0)
        if self.away:
            self.away -= 1
            raise Unavailable("away")
        for host in hosts:
            if host.host_id in self.poison:
                raise self.poison[host.host_id]
        self.settled += [host.host_id for host in hosts]
        return ()


def heard(host: str) -> Heard:
    return Heard(host_id=HostId(host), shard=ShardId(0), epoch=1, full={}, asked_at=NOW)


@pytest.mark.parametrize("error", [Fenced("later"), OverflowError("too large an exit code")])
async def test_a_host_whose_word_cannot_be_written_costs_no_other_host_its_own(error: Exception) -> None:
    store = MemoryVms()
    store.poison[HostId("b")] = error
    settler = VmSettler(store, engine=ME, pause_seconds=0.0)
    async with Scope() as scope:
        scope.keep(settler.run, name="settler")
        for name in "abc":
            settler.put(heard(name))
        await eventually(lambda: store.settled == ["a", "c"])
        settler.put(heard("d"))
        await eventually(lambda: store.settled == ["a", "c", "d"])


async def test_what_was_said_while_the_database_was_away_is_settled_afterwards() -> None:
    store = MemoryVms()
    store.away = 1
    settler = VmSettler(store, engine=ME, pause_seconds=0.0)
    async with Scope() as scope:
        scope.keep(settler.run, name="settler")
        settler.put(heard("a"))
        await eventually(lambda: store.settled == ["a"])
