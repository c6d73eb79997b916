"""VMs run, stop and move on simulated hosts; what is lost on the way makes nothing double."""

from __future__ import annotations

import pytest

from engine.commands.records import CommandState
from engine.errors import Conflict
from plugins.simulator.machines import Pace
from tests.contract.vms.site import VmSite, until


async def test_a_vm_runs_where_it_was_placed_and_is_stopped(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        vm = await site.vm()
        history = await site.do("run_vm", vm_id=vm.id)
        assert history.command.state is CommandState.SUCCEEDED
        up = await site.becomes(vm, "up")
        assert site.running(vm) == [site.agents.index(site.agent_of(up.host_id))]
        with pytest.raises(Conflict, match="up, not down"):
            await site.do("run_vm", vm_id=vm.id)
        assert (await site.do("stop_vm", vm_id=vm.id)).command.state is CommandState.SUCCEEDED
        down = await site.inventory.vm(vm.id)
        assert (down.status, down.host_id) == ("down", None)
        assert site.running(vm) == []
    assert len(site.verbs("VM.create")) == len(site.verbs("VM.destroy")) == 1


async def test_a_vm_is_shut_down_by_its_guest_and_nothing_is_left_of_it(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        vm = await site.vm()
        await site.do("run_vm", vm_id=vm.id)
        await site.becomes(vm, "up")
        assert (await site.do("shutdown_vm", vm_id=vm.id)).command.state is CommandState.SUCCEEDED
        assert all(vm.id not in agent.vms for agent in site.agents)
        assert (await site.inventory.vm(vm.id)).host_id is None


async def test_a_vm_is_paused_and_resumed(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        vm = await site.vm()
        await site.do("run_vm", vm_id=vm.id)
        await site.becomes(vm, "up")
        await site.do("pause_vm", vm_id=vm.id)
        await site.becomes(vm, "paused")
        await site.do("resume_vm", vm_id=vm.id)
        await site.becomes(vm, "up")


async def test_a_vm_moves_to_the_chosen_host(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        vm = await site.vm()
        await site.do("run_vm", vm_id=vm.id, host_id=site.rows[0].id)
        await site.becomes(vm, "up")
        history = await site.do("migrate_vm", vm_id=vm.id, host_id=site.rows[2].id)
        assert history.command.state is CommandState.SUCCEEDED, history.command.error
        moved = await site.becomes(vm, "up")
        assert (moved.host_id, moved.destination_id) == (site.rows[2].id, None)
        assert site.running(vm) == [2]
        assert vm.id not in site.agents[0].vms


async def test_a_migration_that_is_cancelled_leaves_the_vm_where_it_is(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        site.agents[0].site.pace = Pace(migrate_seconds=60.0)
        vm = await site.vm()
        await site.do("run_vm", vm_id=vm.id, host_id=site.rows[0].id)
        command = await site.begin("migrate_vm", vm_id=vm.id)
        await site.becomes(vm, "migrating")
        with pytest.raises(Conflict, match="locked by command"):
            await site.begin("stop_vm", vm_id=vm.id)
        cancelled = await site.do("cancel_migration", vm_id=vm.id)
        assert cancelled.command.state is CommandState.SUCCEEDED, cancelled.command.error
        history = await site.end(command)
        assert "still at the source" in history.command.error
        stayed = await site.becomes(vm, "up")
        assert (stayed.host_id, stayed.destination_id) == (site.rows[0].id, None)
        assert site.running(vm) == [0]


async def test_a_vm_whose_source_dies_on_the_way_is_settled_by_its_destination(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        await site.give_power(0)
        site.agents[0].site.pace = Pace(migrate_seconds=60.0)
        vm = await site.vm()
        await site.do("run_vm", vm_id=vm.id, host_id=site.rows[0].id)
        command = await site.begin("migrate_vm", vm_id=vm.id, host_id=site.rows[2].id)
        await site.becomes(vm, "migrating")
        site.agents[0].crash()
        unknown = await site.becomes(vm, "unknown")
        assert (unknown.host_id, unknown.destination_id) == (site.rows[0].id, site.rows[2].id)
        await site.fence_off(0)
        history = await site.end(command)  # it does not wait for the host that will not come back
        assert history.command.ended
        assert "does not run it" in history.command.error or "was fenced" in history.command.error
        down = await site.becomes(vm, "down")
        assert "vanished" in down.status_reason
        assert site.running(vm) == []


async def test_a_run_whose_host_is_fenced_goes_on_elsewhere(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        vm = await site.vm()
        for agent in site.agents:
            agent.faults.slow_seconds = 0.3
        command = await site.begin("run_vm", vm_id=vm.id)
        await until(lambda: _is(bool(site.verbs("VM.create"))))
        port = site.verbs("VM.create")[0].host
        chosen = next(agent for agent in site.agents if agent.port == port)
        number = site.agents.index(chosen)
        await site.give_power(number)
        chosen.refuse()
        for agent in site.agents:
            agent.faults.clear()
        await site.becomes(vm, "unknown")
        await site.fence_off(number)
        history = await site.end(command)
        assert history.command.state is CommandState.SUCCEEDED, history.command.error
        assert len(site.running(vm)) == 1
        assert number not in site.running(vm)


async def test_a_stop_whose_host_is_fenced_has_happened(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        await site.give_power(1)
        vm = await site.vm()
        await site.do("run_vm", vm_id=vm.id, host_id=site.rows[1].id)
        await site.becomes(vm, "up")
        site.agents[1].refuse()
        await site.becomes(vm, "unknown")
        command = await site.begin("stop_vm", vm_id=vm.id)
        await site.fence_off(1)
        history = await site.end(command)
        assert history.command.state is CommandState.SUCCEEDED, history.command.error
        assert (await site.inventory.vm(vm.id)).host_id is None
        assert site.running(vm) == []


async def test_a_host_that_refuses_is_passed_over(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        refusing = site.agents[0]
        refusing.faults.error_code, refusing.faults.error_left = 1100, -1
        for number in range(4):
            vm = await site.vm(f"vm-{number}")
            history = await site.do("run_vm", vm_id=vm.id)
            assert history.command.state is CommandState.SUCCEEDED, history.command.error
            assert len(site.running(vm)) == 1
            assert 0 not in site.running(vm)
    assert refusing.port in {request.host for request in site.verbs("VM.create")}


async def test_a_vm_that_no_host_takes_is_down_and_each_host_was_asked_once(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        for agent in site.agents:
            agent.faults.error_code, agent.faults.error_left = 1100, -1
        vm = await site.vm()
        history = await site.do("run_vm", vm_id=vm.id)
        assert history.command.ended
        assert history.command.state is not CommandState.SUCCEEDED
        assert "no host can take it" in history.command.error
        left = await site.inventory.vm(vm.id)
        assert (left.status, left.host_id, left.destination_id) == ("down", None, None)
    asked = [request.host for request in site.verbs("VM.create")]
    assert sorted(asked) == sorted(agent.port for agent in site.agents)


async def test_a_lost_reply_to_create_starts_no_second_vm(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        vm = await site.vm()
        agent = site.agents[1]
        agent.faults.drop_left = -1
        command = await site.begin("run_vm", vm_id=vm.id, host_id=site.rows[1].id)
        await until(lambda: _is(bool(site.verbs("VM.create"))))
        agent.faults.clear()
        history = await site.end(command)
        assert history.command.state is CommandState.SUCCEEDED, history.command.error
        assert [step.name for step in history.steps] == ["collect", "define", "place", "create"]
        await site.becomes(vm, "up")
        assert site.running(vm) == [1]
    assert len(site.verbs("VM.create")) == 1


async def test_the_heir_of_a_dead_engine_ends_its_runs_and_creates_nothing_twice(site: VmSite) -> None:
    async with site.engine("a") as dying:
        await site.up()
        vms = [await site.vm(f"vm-{number}") for number in range(6)]
        commands = [await site.begin("run_vm", vm_id=vm.id) for vm in vms]
        await until(lambda: _is(len(site.verbs("VM.create")) >= 2))
        dying.die()
        async with site.engine("b"):
            for command in commands:
                history = await site.end(command)
                assert history.command.state is CommandState.SUCCEEDED, history.command.error
            for vm in vms:
                await site.becomes(vm, "up")
                assert len(site.running(vm)) == 1
    assert len(site.verbs("VM.create")) == len(vms)


async def test_maintenance_moves_every_vm_away_and_activation_takes_the_host_back(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        vms = [await site.vm(f"vm-{number}") for number in range(3)]
        for vm in vms:  # the last ones are still starting when the host is to be emptied
            await site.do("run_vm", vm_id=vm.id, host_id=site.rows[0].id)
        history = await site.do("deactivate_host", host_id=site.rows[0].id)
        assert history.command.state is CommandState.SUCCEEDED, history.command.error
        assert (await site.hosts.get("host-0")).status == "maintenance"
        for vm in vms:
            assert 0 not in site.running(vm)
            assert len(site.running(vm)) == 1
        history = await site.do("activate_host", host_id=site.rows[0].id)
        assert history.command.state is CommandState.SUCCEEDED, history.command.error
        assert (await site.hosts.get("host-0")).status == "up"


async def test_maintenance_is_refused_while_a_vm_may_run_only_there(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        vm = await site.vm(pinned_host=site.rows[0].id)
        await site.do("run_vm", vm_id=vm.id)
        await site.becomes(vm, "up")
        with pytest.raises(Conflict, match="vm-1 may run only there"):
            await site.begin("deactivate_host", host_id=site.rows[0].id)


async def test_vms_of_a_host_that_crashed_are_unknown_and_down_once_it_says_so(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        vm = await site.vm()
        await site.do("run_vm", vm_id=vm.id, host_id=site.rows[1].id)
        await site.becomes(vm, "up")
        site.agents[1].crash()
        unknown = await site.becomes(vm, "unknown")
        assert unknown.host_id == site.rows[1].id
        await site.agents[1].restore()
        await site.becomes(vm, "down")


async def test_a_vm_that_ends_by_itself_is_down_with_its_reason_and_runs_again(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        vm = await site.vm()
        await site.do("run_vm", vm_id=vm.id, host_id=site.rows[1].id)
        await site.becomes(vm, "up")
        site.agents[1].machines.shut_down(site.agents[1].machines.by_id[vm.id], reboot=False)
        down = await site.becomes(vm, "down")
        assert (down.exit_reason, down.exit_message) == (7, "The guest shut down")

        async def cleared() -> bool:
            gone = vm.id not in site.agents[1].vms and (await site.inventory.vm(vm.id)).host_id is None
            return gone and await site.locks.holders() == []

        await until(cleared)  # by a command of the engine's own
        history = await site.do("run_vm", vm_id=vm.id)
        assert history.command.state is CommandState.SUCCEEDED, history.command.error
        await site.becomes(vm, "up")


async def test_vms_of_a_fenced_host_are_down_and_run_elsewhere(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        await site.give_power(1)
        vm = await site.vm()
        await site.do("run_vm", vm_id=vm.id, host_id=site.rows[1].id)
        await site.becomes(vm, "up")
        with pytest.raises(Conflict, match="is up"):
            await site.begin("fence_host", host_id=site.rows[1].id, power="off")
        site.agents[1].refuse()  # its agent is gone; the VM runs on
        await site.becomes(vm, "unknown")
        assert site.running(vm) == [1]
        history = await site.fence_off(1)
        assert history.command.state is CommandState.SUCCEEDED, history.command.error
        assert site.running(vm) == []
        down = await site.inventory.vm(vm.id)
        assert (down.status, down.host_id) == ("down", None)
        assert (await site.hosts.get("host-1")).status == "down"
        history = await site.do("run_vm", vm_id=vm.id)
        assert history.command.state is CommandState.SUCCEEDED, history.command.error
        await site.becomes(vm, "up")
        history = await site.do("fence_host", host_id=site.rows[1].id, power="on")
        assert history.command.state is CommandState.SUCCEEDED, history.command.error
        await site.up()


async def _is(value: bool) -> bool:
    return value
