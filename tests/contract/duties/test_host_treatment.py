"""Treatment of silent hosts on the simulator: fenced once, their VMs run once elsewhere, or why not."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from engine.clock import utcnow
from engine.db.tables import host_cluster
from engine.plugin import EngineId, Json
from engine.testing.calls import MemoryCalls
from plugins.singletons.ha_restart import HaRestart
from plugins.singletons.host_treatment import HostTreatment
from plugins.tasks.hosts import Reached
from tests.contract.duties.running import context_of, leading, told
from tests.contract.duties.test_ha_restart import ha_restart, run
from tests.contract.vms.site import VmSite, until
from tests.databases import only_sqlite

HOUR = timedelta(hours=1)
E1, E2 = EngineId("e1"), EngineId("e2")


class Reach(MemoryCalls):
    """What engines say of the simulated hosts: the truth, but `claiming` ones say that all is well."""

    def __init__(self, site: VmSite, *members: str, claiming: str = "") -> None:
        super().__init__(members=members)
        self._site = site
        self._claiming = claiming
        self.answers["host_reach"] = self._reach

    def _reach(self, engine: EngineId | None, key: str | None, arguments: Json) -> Reached:
        agent = self._site.agent_of(arguments["host_id"])
        up = (agent.state == "listening" and not agent.faults.silent) or engine == self._claiming
        return Reached(engine=str(engine), answered=up, lives=up)


def treatment(site: VmSite, calls: MemoryCalls | None = None, **values: Any) -> HostTreatment:
    reach = calls or Reach(site, E1, E2)
    here = {engine: utcnow() - HOUR for engine in reach.members}
    quick = {"interval_seconds": 0.05, "retry_seconds": 0.2, **values}
    made = context_of(site, HostTreatment, "host_treatment", quick, members=here)
    return HostTreatment(replace(made, calls=reach))


@contextlib.asynccontextmanager
async def treating(site: VmSite, *duties: HostTreatment | HaRestart, token: int = 1) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for duty in duties:
            await stack.enter_async_context(leading(duty, token=token))
        yield


def cuts(site: VmSite, number: int) -> int:
    """How often the power of a host was cut, in truth."""
    return len([each for each in site.powers() if each.host == site.agents[number].port and not each.on])


async def untold(site: VmSite, wanted: str) -> None:
    """Until it was told why the host is not fenced; nothing was fenced meanwhile."""

    async def there() -> bool:
        return any(wanted in event.message for event in await told(site, "host_not_fenced"))

    await until(there)
    assert site.powers() == []


async def test_a_crashed_host_is_fenced_once_its_ha_vms_run_once_elsewhere_and_it_comes_back(
    site: VmSite,
) -> None:
    async with site.engine():
        await site.up()
        await site.give_power(1)
        vital = await site.vm("vital", highly_available=True)
        plain = await site.vm("plain")
        for vm in (vital, plain):
            await run(site, vm, 1)
        async with treating(site, treatment(site), ha_restart(site)):
            site.agents[1].crash()
            await until(lambda: _restarted(site))
            await site.becomes(vital, "up")
            await site.up()
        assert cuts(site, 1) == 1
        (where,) = site.running(vital)
        assert where != 1
        assert (await site.inventory.vm(plain.id)).status == "down"
        assert len(site.verbs("VM.create")) == 3
        messages = [event.message for event in await told(site, "host_treatment", "host_fenced")]
        assert len(messages) == 2
        assert messages[0].startswith("host host-1 is fenced: no answer")
    assert await told(site, "host_not_fenced") == []


async def test_a_host_that_a_second_engine_reaches_is_not_fenced_and_that_is_told_once(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        await site.give_power(1)
        vm = await site.vm(highly_available=True)
        await run(site, vm, 1)
        async with treating(site, treatment(site, Reach(site, E1, E2, claiming="e2")), ha_restart(site)):
            site.agents[1].refuse()  # its agent is gone, and its VM runs on
            await untold(site, "host host-1 is not fenced: e2 reaches it")
            await untold(site, "not fenced")
            await until(lambda: _asked_again(site))
        assert len(await told(site, "host_not_fenced")) == 1
        assert site.running(vm) == [1]


async def _asked_again(site: VmSite) -> bool:
    return (await site.hosts.get("host-1")).status == "non_responsive"


async def test_nothing_is_fenced_while_the_engines_are_new(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        await site.give_power(1)
        duty = treatment(site, quiet_seconds=86400.0)
        async with treating(site, duty):
            site.agents[1].crash()
            await untold(site, "the engines have been here for less than 86400 s")


async def test_nothing_is_fenced_while_most_hosts_are_broken(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        for number in range(3):
            await site.give_power(number)
        site.agents[0].crash()
        site.agents[1].crash()

        async def both() -> bool:
            rows = [await site.hosts.get(f"host-{number}") for number in (0, 1)]
            return all(row.status == "non_responsive" for row in rows)

        await until(both)
        async with treating(site, treatment(site)):
            await untold(site, "2 of the 3 hosts of cluster default are broken")


async def test_a_cluster_without_fencing_and_a_host_without_power_management_are_left_alone(
    site: VmSite,
) -> None:
    async with site.engine():
        await site.up()
        async with treating(site, treatment(site)):
            site.agents[1].crash()
            await untold(site, "it has no power management")
            async with site.database.writing() as connection:
                await connection.execute(host_cluster.update().values(fencing=False))
            await site.give_power(1)
            await untold(site, "fencing is switched off")


async def test_a_host_in_maintenance_is_left_alone(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        await site.give_power(1)
        await site.do("deactivate_host", host_id=site.rows[1].id)
        async with treating(site, treatment(site)):
            site.agents[1].crash()
            site.agents[2].crash()  # which is looked at, in the meantime
            await untold(site, "host host-2 is not fenced: it has no power management")
        assert (await site.hosts.get("host-1")).status == "maintenance"


async def _verb(site: VmSite) -> bool:
    return bool(site.verbs("Host.fenceNode"))


async def _off(site: VmSite) -> bool:
    return bool(site.powers())


async def _settled(site: VmSite) -> bool:
    return bool(await told(site, "host_fenced"))


async def _restarting(site: VmSite) -> bool:
    return bool(await told(site, "vm_restart"))


async def _on(site: VmSite) -> bool:
    return any(change.on for change in site.powers())


@only_sqlite
@pytest.mark.parametrize("moment", [_verb, _off, _settled, _restarting, _on])
async def test_a_treatment_whose_leader_and_engine_die_is_ended_by_their_heirs_with_one_fence(
    site: VmSite, moment: Callable[[VmSite], Awaitable[bool]]
) -> None:
    async with site.engine("a") as dying:
        await site.up()
        await site.give_power(1)
        vm = await site.vm(highly_available=True)
        await run(site, vm, 1)
        async with treating(site, treatment(site), ha_restart(site), token=1):
            site.agents[1].crash()
            await until(lambda: moment(site))
        dying.die()
        async with site.engine("b"), treating(site, treatment(site), ha_restart(site), token=2):
            await until(lambda: _restarted(site))
            await site.becomes(vm, "up")
            await site.up()
        assert cuts(site, 1) == 1
        assert len(site.running(vm)) == 1
        assert len(await _asked(site)) == 1
    created = [change.host for change in site.changes(vm) if change.status == "WaitForLaunch"]
    assert len(created) == 2


async def test_two_leaders_at_once_ask_for_one_treatment(site: VmSite) -> None:
    """One of them was frozen, and does not know yet that it leads no more."""
    async with site.engine():
        await site.up()
        await site.give_power(1)
        async with (
            treating(site, treatment(site), token=1),
            treating(site, treatment(site), token=2),
        ):
            site.agents[1].crash()
            await until(lambda: _restarted(site))
            await site.up()
        assert cuts(site, 1) == 1
        assert len(await _asked(site)) == 1


async def _asked(site: VmSite) -> list[str]:
    return [each.message for each in await told(site, "command_submitted") if "treat_host" in each.message]


async def test_where_one_proxy_fails_another_one_is_asked(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        await site.give_power(1)
        proxies = sorted((0, 2), key=lambda number: site.rows[number].id)
        bad = site.agents[proxies[0]]
        bad.faults.error_code, bad.faults.error_left = 18, -1
        bad.faults.error_verbs = frozenset({"Host.fenceNode"})
        async with treating(site, treatment(site)):
            site.agents[1].crash()
            await until(lambda: _restarted(site))
            bad.faults.clear()
            await site.up()
        assert cuts(site, 1) == 1
        asked = [request.host for request in site.verbs("Host.fenceNode")]
        assert bad.port in asked


async def test_a_treatment_that_failed_is_tried_again_and_told_by_the_next_leader_too(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        await site.give_power(1)
        for number in (0, 2):
            faults = site.agents[number].faults
            faults.error_code, faults.error_left = 18, -1
            faults.error_verbs = frozenset({"Host.fenceNode"})
        async with treating(site, treatment(site), token=1):
            site.agents[1].crash()
            await until(lambda: _failed(site, 2))
        (told_once,) = await told(site, "host_not_fenced")
        assert "its treatment failed: power off of host host-1 failed" in told_once.message
        for number in (0, 2):
            site.agents[number].faults.clear()
        before = len(await _asked(site))
        async with treating(site, treatment(site, retry_seconds=86400.0), token=2):
            await until(lambda: _restarted(site))
        assert cuts(site, 1) == 1
        assert len(await _asked(site)) <= before + 1


async def _failed(site: VmSite, count: int) -> bool:
    ended = await told(site, "command_failed", "command_compensated")
    return len([each for each in ended if "treat_host" in each.message]) >= count


async def test_an_operators_command_goes_first(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        await site.give_power(1)
        keys = frozenset({f"host:{site.rows[1].id}"})
        command = "00000000-0000-0000-0000-00000000000a"
        await site.locks.take_for_command(
            command, exclusive=keys, shared=frozenset(), user="ann", reason="by hand"
        )
        async with treating(site, treatment(site)):
            site.agents[1].crash()
            await untold(site, "locked by command")
            await site.locks.release_command(command)
            await until(lambda: _restarted(site))
        assert cuts(site, 1) == 1
        assert len(await _asked(site)) == 1


async def _restarted(site: VmSite) -> bool:
    """The host was fenced and has been switched on again."""
    fenced = [event for event in await told(site, "command_succeeded") if "treat_host" in event.message]
    return bool(fenced)
