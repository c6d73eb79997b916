"""HA restart on simulated hosts: what ended by itself runs again, what was stopped does not."""

from __future__ import annotations

from engine.commands.records import CommandState
from engine.hosts.inventory.records import Vm
from plugins.singletons.ha_restart import HaRestart
from tests.contract.duties.running import context_of, leading, told
from tests.contract.vms.site import VmSite, until

QUICK = {"interval_seconds": 0.05, "retry_seconds": 0.3, "settled_seconds": 0.2}


def ha_restart(site: VmSite, **values: float) -> HaRestart:
    return HaRestart(context_of(site, HaRestart, "ha_restart", {**QUICK, **values}))


async def run(site: VmSite, vm: Vm, host: int) -> None:
    history = await site.do("run_vm", vm_id=vm.id, host_id=site.rows[host].id)
    assert history.command.state is CommandState.SUCCEEDED, history.command.error
    await site.becomes(vm, "up")


async def test_vms_of_a_fenced_host_run_again_elsewhere_and_once_the_important_ones_first(
    site: VmSite,
) -> None:
    async with site.engine():
        await site.up()
        await site.give_power(1)
        low = await site.vm("low", highly_available=True, priority=1)
        high = await site.vm("high", highly_available=True, priority=90)
        plain = await site.vm("plain")
        for vm in (low, high, plain):
            await run(site, vm, 1)
        site.agents[1].crash()
        await site.becomes(high, "unknown")
        async with leading(ha_restart(site)):
            await site.fence_off(1)
            for vm in (low, high):
                await site.becomes(vm, "up")
                assert len(site.running(vm)) == 1
                assert 1 not in site.running(vm)
        assert (await site.inventory.vm(plain.id)).status == "down"
        restarts = await told(site, "vm_restart")
        assert [event.data["vm_id"] for event in restarts] == [high.id, low.id]
        assert "its host was fenced" in restarts[0].message
    created = [request for request in site.verbs("VM.create")]
    assert len(created) == 3 + 2


async def test_a_vm_that_somebody_stopped_or_whose_guest_ended_stays_down(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        stopped = await site.vm("stopped", highly_available=True)
        ended = await site.vm("ended", highly_available=True)
        crashed = await site.vm("crashed", highly_available=True)
        for vm in (stopped, ended, crashed):
            await run(site, vm, 0)
        async with leading(ha_restart(site)):
            await site.do("stop_vm", vm_id=stopped.id)
            machines = site.agents[0].machines
            machines.shut_down(machines.by_id[ended.id], reboot=False)
            await site.becomes(ended, "down")
            site.agents[0].crash()
            await site.agents[
                0
            ].restore()  # which says that what it ran is gone: that failed, and is run again

            async def restarted() -> bool:
                events = await told(site, "vm_restart")
                return bool(events) and (await site.inventory.vm(crashed.id)).status == "up"

            await until(restarted)
            assert {event.data["vm_id"] for event in await told(site, "vm_restart")} == {crashed.id}
        assert site.running(stopped) == site.running(ended) == []
        assert len(site.running(crashed)) == 1


async def test_a_vm_that_no_host_has_room_for_waits_and_runs_as_soon_as_one_has(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        await site.give_power(1)
        vm = await site.vm(highly_available=True, pinned_host=site.rows[1].id)
        await run(site, vm, 1)
        site.agents[1].crash()
        await site.becomes(vm, "unknown")
        async with leading(ha_restart(site)):
            await site.fence_off(1)
            await until(lambda: _waits(site))
            waits = await site.inventory.vm(vm.id)
            assert (waits.wanted, waits.restart_tries) == ("up", 0)
            (event,) = await told(site, "vm_restart_waits")
            assert event.message.startswith("VM vm-1 waits to be run again: no host can take it: ")
            await site.do("fence_host", host_id=site.rows[1].id, power="on")
            await site.becomes(vm, "up")

            async def forgotten() -> bool:
                return (await site.inventory.vm(vm.id)).restart_tries == 0

            await until(forgotten)
        assert site.running(vm) == [1]


async def test_somebody_stops_a_vm_that_waits_for_its_next_try(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        await site.give_power(1)
        vm = await site.vm(highly_available=True, pinned_host=site.rows[1].id)
        await run(site, vm, 1)
        site.agents[1].crash()
        await site.becomes(vm, "unknown")
        async with leading(ha_restart(site, retry_seconds=600.0)):
            await site.fence_off(1)
            await until(lambda: _waits(site))
            await until(lambda: _free(site))
            history = await site.do("stop_vm", vm_id=vm.id)
            assert history.command.state is CommandState.SUCCEEDED, history.command.error
            assert (await site.inventory.vm(vm.id)).wanted == "down"


async def test_the_next_leader_goes_on_where_the_last_one_was(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        await site.give_power(1)
        vm = await site.vm(highly_available=True)
        await run(site, vm, 1)
        site.agents[1].crash()
        await site.becomes(vm, "unknown")
        async with leading(ha_restart(site, retry_seconds=600.0), token=1):
            await site.fence_off(1)

            async def tried() -> bool:
                return (await site.inventory.vm(vm.id)).restart_tries == 1

            await until(tried)
        async with leading(ha_restart(site, retry_seconds=600.0), token=2):
            await site.becomes(vm, "up")
        assert len(await told(site, "vm_restart")) == 1
        assert len(site.running(vm)) == 1


async def _waits(site: VmSite) -> bool:
    return bool(await told(site, "vm_restart_waits"))


async def _free(site: VmSite) -> bool:
    return await site.locks.holders() == []
