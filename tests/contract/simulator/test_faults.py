"""Faults on command: what a client then meets on the wire."""

from __future__ import annotations

import asyncio
import time

import pytest

from plugins.simulator.host import SimulatedHost
from plugins.simulator.machines import VmStatus
from tests.contract.simulator.wire import CONNECT, Wire, request, send, until

CREATE = {"vmID": "v", "vmParams": {"vmId": "v", "xml": ""}}


async def test_a_slow_host_answers_late(host: SimulatedHost) -> None:
    host.faults.slow_seconds = 0.2
    async with Wire(host.port) as wire:
        await wire.greet()
        began = time.monotonic()
        assert await wire.result("Host.ping2") is True
        assert time.monotonic() - began >= 0.2


async def test_a_slow_host_has_room_for_88_requests_and_refuses_the_rest_with_1100(
    host: SimulatedHost,
) -> None:
    host.faults.slow_seconds = 0.3
    async with Wire(host.port) as wire:
        await wire.greet()
        wire.write(b"".join(send(request("Host.ping2", request_id=number)) for number in range(100)))
        answers = [await wire.message() for _ in range(100)]
    refused = [answer["id"] for answer in answers if answer.get("error", {}).get("code") == 1100]
    assert refused == list(range(88, 100))
    assert host.waiting == 0


async def test_a_silent_host_accepts_and_says_nothing_but_the_witness_hears(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        host.faults.silent = True
        wire.write(send(request("VM.create", CREATE)))
        await until(lambda: host.counters.requests == 1)
        async with Wire(host.port) as late:
            late.write(CONNECT)
            await until(lambda: host.open_connections == 2)
            host.faults.silent = False
            assert await wire.result("Host.getVMList") == []  # the first thing that is said
            late.write(CONNECT)
            await late.frame()


async def test_an_error_is_answered_for_the_next_requests_only(host: SimulatedHost) -> None:
    host.faults.error_code, host.faults.error_left = 99, 2
    async with Wire(host.port) as wire:
        await wire.greet()
        assert [(await wire.call("Host.ping2")).get("error", {}).get("code") for _ in range(3)] == [
            99,
            99,
            None,
        ]


async def test_an_error_without_a_count_lasts_until_it_is_cleared(host: SimulatedHost) -> None:
    host.faults.error_code, host.faults.error_left = 1100, -1
    async with Wire(host.port) as wire:
        await wire.greet()
        for _ in range(5):
            assert (await wire.call("VM.create", CREATE))["error"]["code"] == 1100
        assert host.vms == {}
        host.faults.clear()
        assert await wire.result("Host.ping2") is True


async def test_a_lost_answer_was_carried_out(host: SimulatedHost) -> None:
    host.faults.drop_left = 1
    async with Wire(host.port) as wire:
        await wire.greet()
        wire.write(send(request("VM.create", CREATE, "lost")))
        assert [vm["vmId"] for vm in await wire.result("Host.getVMList")] == ["v"]


async def test_faults_may_be_confined_to_a_verb(host: SimulatedHost) -> None:
    host.faults.drop_left, host.faults.drop_verbs = 1, frozenset({"VM.create"})
    host.faults.error_code, host.faults.error_left = 1100, 1
    host.faults.error_verbs = frozenset({"VM.destroy"})
    async with Wire(host.port) as wire:
        await wire.greet()
        assert await wire.result("Host.ping2") is True
        wire.write(send(request("VM.create", CREATE, "lost")))
        assert len(await wire.result("Host.getVMList")) == 1
        assert (await wire.call("VM.destroy", {"vmID": "v"}))["error"]["code"] == 1100
        assert await wire.result("VM.destroy", {"vmID": "v"}) is True


async def test_a_delayed_verb_is_carried_out_though_its_sender_is_gone(host: SimulatedHost) -> None:
    host.faults.slow_seconds, host.faults.slow_verbs = 0.2, frozenset({"VM.create"})
    async with Wire(host.port) as wire:
        await wire.greet()
        wire.write(send(request("VM.create", CREATE)))
        assert await wire.result("Host.getVMList") == []  # other verbs are as fast as ever
    await until(lambda: "v" in host.vms)


async def test_a_refusing_host_resets_who_is_there_and_who_comes_and_keeps_its_vms(
    host: SimulatedHost,
) -> None:
    host.machines.place("v", name="v", memory_mb=1, status=VmStatus.UP)
    async with Wire(host.port) as wire:
        await wire.greet()
        host.refuse()
        assert await wire.reset()
    with pytest.raises(ConnectionRefusedError):
        await Wire(host.port).__aenter__()
    await host.restore()
    async with Wire(host.port) as wire:
        await wire.greet()
        assert len(await wire.result("Host.getVMList")) == 1


async def test_a_crashed_host_resets_everybody_and_its_vms_are_gone(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        await wire.result("VM.create", CREATE)
        host.faults.slow_seconds = 0.05
        wire.write(send(request("VM.create", {**CREATE, "vmID": "late"})))
        await until(lambda: host.waiting == 1)
        host.crash()
        assert await wire.reset()
    host.faults.clear()
    await host.restore()
    async with Wire(host.port) as wire:
        await wire.greet()
        passed = asyncio.Event()  # what was under way would come before it on the same wheel
        host.wheel.after(0.1, passed.set)
        await passed.wait()
        assert await wire.result("Host.getVMList") == []
        assert int((await wire.result("Host.getStats"))["elapsedTime"]) == 0


async def test_a_crashed_machine_is_on_until_it_is_switched_off_and_only_then_starts_again(
    host: SimulatedHost,
) -> None:
    host.machines.place("v", name="v", memory_mb=1, status=VmStatus.UP)
    host.crash()
    assert (host.power, host.state) == ("on", "crashed")
    await host.power_on()
    assert host.state == "crashed"
    host.power_off()
    assert (host.power, host.state) == ("off", "off")
    host.faults.silent = True
    await host.power_on()
    assert (host.power, host.state, host.faults.silent) == ("on", "listening", False)
    assert dict(host.vms) == {}


async def test_switching_off_ends_what_ran_though_its_agent_was_stopped(host: SimulatedHost) -> None:
    host.machines.place("v", name="v", memory_mb=1, status=VmStatus.UP)
    host.refuse()
    assert (host.power, list(host.vms)) == ("on", ["v"])
    host.power_off()
    assert dict(host.vms) == {}


async def test_a_client_that_does_not_read_is_dropped(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        one = send(request("Host.getCapabilities"))
        async with asyncio.timeout(20):
            while host.open_connections:
                wire.write(one * 1000)
                await asyncio.sleep(0)


async def test_faults_of_one_host_do_not_touch_the_others(hosts: list[SimulatedHost]) -> None:
    hosts[0].crash()
    hosts[1].faults.silent = True
    async with Wire(hosts[2].port) as wire:
        await wire.greet()
        assert await wire.result("Host.ping2") is True


async def test_nothing_passes_between_a_host_and_an_engine_that_is_cut_off_from_it(
    host: SimulatedHost,
) -> None:
    async with Wire(host.port) as wire, Wire(host.port) as other:
        await wire.greet()
        await other.greet("other")
        assert "result" in await wire.call("Host.ping2", engine_id="e1")
        host.faults.cut = frozenset({"e1"})
        seen = host.counters.requests
        wire.write(send(request("VM.create", CREATE), engine_id="e1"))
        assert (await other.call("Host.getVMList", engine_id="e2", reply_to="other"))["result"] == []
        assert host.counters.requests == seen + 1
        host.faults.clear()
        assert "result" in await wire.call("Host.ping2", engine_id="e1")
