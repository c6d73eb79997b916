"""JSON-RPC as the agent serves it, and what the witness writes down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plugins.simulator.host import SimulatedHost
from plugins.simulator.log import ConnectionChange, read_log, read_requests
from plugins.simulator.verbs import VERBS
from tests.contract.simulator.wire import Wire, request, send, subscribe, until

DEFAULT_QUEUE = "jms.topic.vdsm_responses"


async def test_one_request_in_an_array_is_answered_with_a_bare_object(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        wire.write(send([request("Host.ping2")]))
        assert await wire.message() == {"jsonrpc": "2.0", "id": "r1", "result": True}


async def test_a_batch_of_two_is_carried_out_and_gets_no_answer(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        create = {"vmID": "v", "vmParams": {"vmId": "v", "xml": ""}}
        wire.write(send([request("VM.create", create, "a"), request("Host.ping2", request_id="b")]))
        assert [vm["vmId"] for vm in await wire.result("Host.getVMList")] == [
            "v"
        ]  # the first thing to arrive


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"", -32700),
        (b"\xff\xfe", -32700),
        (b"[]", -32600),
        (b"7", -32603),
        (b"null", -32603),
        (b'[["x"]]', -32603),
        (b'{"jsonrpc":"1.0","method":"Host.ping2","id":"x"}', -32600),
        (b'{"method":"Host.ping2","id":"x"}', -32600),
        (b'{"jsonrpc":"2.0","id":"x"}', -32600),
        (b'{"jsonrpc":"2.0","method":5,"id":"x"}', -32600),
        (b'{"jsonrpc":"2.0","method":"Host.ping2","params":7,"id":"x"}', -32600),
        (b'{"jsonrpc":"2.0","method":"Host.ping2","params":{},"id":{"a":1}}', -32600),
    ],
)
async def test_what_cannot_be_understood_is_answered_on_the_default_queue_only(
    host: SimulatedHost, body: bytes, code: int
) -> None:
    async with Wire(host.port) as wire:
        await wire.greet("mine")
        wire.write(send(body, reply_to="mine"))  # nobody listens to the default queue: dropped
        wire.write(send(request("Host.ping2"), reply_to="mine"))
        assert (await wire.message())["id"] == "r1"
        wire.write(subscribe(DEFAULT_QUEUE, "default") + send(body, reply_to="mine"))
        answer = await wire.message()
        assert (answer["id"], answer["error"]["code"]) == (None, code)


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("Host.noSuchVerb", {}, -32601),
        ("VM.getStats", {}, -32602),
        ("VM.getStats", ["a", "b"], -32602),
        ("VM.create", {"vmID": "v", "vmParams": 7}, -32602),
        ("VM.migrate", {"vmID": "v", "params": {"dst": "nowhere"}}, -32602),
        ("Host.fenceNode", {"addr": "a"}, -32602),
        *[
            (verb, {"vmID": "none", "params": {"dst": "h:1"}}, 1)
            for verb in VERBS
            if verb.startswith("VM.") and verb not in ("VM.create", "VM.migrationCreate")
        ],
        ("VM.getStats", {"vmID": {"not": "text"}}, 1),
    ],
)
async def test_a_refusal_carries_the_agents_code(
    host: SimulatedHost, method: str, params: Any, code: int
) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        answer = await wire.call(method, params)
        assert answer["error"]["code"] == code
        assert answer["error"]["message"]
        assert "result" not in answer


async def test_a_notification_is_carried_out_and_not_answered(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        create = {"vmID": "v", "vmParams": {"vmId": "v", "xml": ""}}
        wire.write(send({"jsonrpc": "2.0", "method": "VM.create", "params": create}))
        assert len(await wire.result("Host.getVMList")) == 1


async def test_parameters_may_be_positional(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        assert (await wire.result("VM.create", ["v", {"vmId": "v", "xml": ""}]))["vmId"] == "v"


async def test_capabilities_have_the_agents_odd_types(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        answer = await wire.result("Host.getCapabilities")
        assert isinstance(answer["cpuCores"], str)
        assert isinstance(answer["memSize"], str)
        assert int(answer["memSize"]) > 0
        assert all(isinstance(level, str) for level in answer["clusterLevels"])
        assert answer["uuid"] == (await wire.result("Host.getHardwareInfo"))["systemUUID"]


async def test_hosts_have_identities_of_their_own(hosts: list[SimulatedHost]) -> None:
    found = set()
    for host in hosts:
        async with Wire(host.port) as wire:
            await wire.greet()
            found.add((await wire.result("Host.getCapabilities"))["uuid"])
    assert len(found) == len(hosts)


async def test_statistics_have_the_agents_odd_types(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        answer = await wire.result("Host.getStats")
        assert (answer["vmCount"], answer["vmActive"], answer["vmMigrating"]) == (0, 0, 0)
        assert isinstance(answer["memFree"], int)
        assert isinstance(answer["cpuLoad"], str)
        assert float(answer["cpuLoad"]) >= 0


async def test_task_verbs_answer_with_maps(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        assert await wire.result("Host.getAllTasksStatuses") == {}
        assert await wire.result("Host.getAllTasksInfo") == {}
        assert await wire.result("Host.getAllVmStats") == []


async def test_each_request_is_witnessed_with_who_asked_and_under_which_epoch(
    host: SimulatedHost, tmp_path: Path
) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        epoch = (4 << 32) | 2
        await wire.call("Host.getStats", engine_id="e1", engine_epoch=str(epoch), ovirtCorrelationId="op-9")
        (entry,) = read_requests(tmp_path / "log")
        assert (entry.host, entry.engine, entry.epoch) == (host.port, "e1", epoch)
        assert (entry.verb, entry.id, entry.op) == ("Host.getStats", "call", "op-9")


async def test_a_request_is_witnessed_before_its_answer_leaves(host: SimulatedHost, tmp_path: Path) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        for number in range(1, 20):
            await wire.call("Host.ping2")
            assert len(read_requests(tmp_path / "log")) == number


@pytest.mark.parametrize("epoch", ["-1", "x", "1.5", "", "9" * 30, "٣"])
async def test_an_epoch_that_is_no_number_is_witnessed_as_none(
    host: SimulatedHost, tmp_path: Path, epoch: str
) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        await wire.call("Host.ping2", engine_epoch=epoch)
        (entry,) = read_requests(tmp_path / "log")
        assert entry.epoch is None


async def test_both_requests_of_a_batch_and_what_cannot_be_parsed_are_witnessed(
    host: SimulatedHost, tmp_path: Path
) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        wire.write(
            send([request("Host.getStats", request_id="a"), request("Host.ping2", request_id="b")])
            + send(b"{")
        )
        await wire.call("Host.ping2")
        assert [entry.verb for entry in read_requests(tmp_path / "log")] == [
            "Host.getStats",
            "Host.ping2",
            "",
            "Host.ping2",
        ]


async def test_connections_are_witnessed(host: SimulatedHost, tmp_path: Path) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        port = wire.writer.get_extra_info("sockname")[1]
    await until(lambda: host.open_connections == 0)
    changes = [entry for entry in read_log(tmp_path / "log") if isinstance(entry, ConnectionChange)]
    assert [(change.host, change.opened, change.peer) for change in changes] == [
        (host.port, True, port),
        (host.port, False, port),
    ]


async def test_an_older_epoch_is_counted_and_served_as_real_agents_do(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        await wire.call("Host.ping2", engine_epoch="5")
        assert (await wire.call("Host.ping2", engine_epoch="4"))["result"] is True
        await wire.call("Host.ping2")
        assert (host.counters.stale, host.epoch) == (1, 5)


async def test_an_older_epoch_is_refused_where_that_was_asked_for(host: SimulatedHost) -> None:
    host.faults.refuse_stale = True
    async with Wire(host.port) as wire:
        await wire.greet()
        create = {"vmID": "v", "vmParams": {"vmId": "v", "xml": ""}}
        await wire.call("Host.ping2", engine_epoch="5")
        assert (await wire.call("VM.create", create, engine_epoch="4"))["error"]["message"] == "stale epoch"
        assert host.vms == {}
        assert (await wire.call("Host.ping2", engine_epoch="5"))["result"] is True
        assert (await wire.call("Host.ping2", engine_epoch="6"))["result"] is True
        assert (host.counters.stale, host.counters.refused_stale) == (1, 1)


async def test_a_large_request_is_read(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        xml = f"<domain><uuid>v</uuid><memory unit='KiB'>2097152</memory><!--{'x' * 300_000}--></domain>"
        created = await wire.result("VM.create", {"vmID": "v", "vmParams": {"vmId": "v", "xml": xml}})
        assert created["memSize"] == 2048


async def test_hundreds_of_requests_at_once_are_each_answered_once(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        wire.write(b"".join(send(request("Host.getStats", request_id=number)) for number in range(500)))
        assert [(await wire.message())["id"] for _ in range(500)] == list(range(500))
