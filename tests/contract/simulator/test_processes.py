"""The program itself: start, ready line, many processes with one log, control, and every way to end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import asyncssh
import pytest

from plugins.simulator.control import Refused, open_simulator
from plugins.simulator.host import bound_socket
from plugins.simulator.log import read_requests
from plugins.simulator.ports import free_ports
from plugins.simulator.witness import asked_by_two
from tests.contract.simulator.conftest import START_SECONDS, Simulate, Simulation, end, run
from tests.contract.simulator.wire import Wire, request, send, subscribe, until


async def ask(port: int, verb: str = "Host.ping2", **headers: str) -> None:
    async with Wire(port) as wire:
        await wire.greet()
        assert "result" in await wire.call(verb, **headers)


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def resident_mib(pid: int) -> int:
    (line,) = (
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:")
    )
    return int(line.split()[1]) // 1024


async def test_the_ready_line_is_printed_when_every_port_listens(simulate: Simulate) -> None:
    simulation = await simulate("--hosts", "5")
    assert simulation.ready["ready"] is True
    assert simulation.ready["tls"] is False
    assert len(simulation.ports) == 5
    for port in simulation.ports:
        await ask(port)
    assert await simulation.simulator.ports() == simulation.ports


async def test_several_processes_are_one_simulation_with_one_log(simulate: Simulate, tmp_path: Path) -> None:
    simulation = await simulate("--hosts", "7", "--processes", "3", "--log", str(tmp_path / "log"))
    assert len(simulation.ready["processes"]) == 3
    for number in range(3):
        for port in simulation.ports:
            await ask(port, engine_id="e", engine_epoch=str(number))
    entries = read_requests(tmp_path / "log")
    assert [entry.host for entry in entries] == simulation.ports * 3
    assert asked_by_two(entries) == []
    assert len(list((tmp_path / "log").iterdir())) == 3
    counters = await simulation.simulator.counters()
    assert [(port, each.requests, each.epoch) for port, each in counters.items()] == [
        (port, 3, 2) for port in simulation.ports
    ]


async def test_commands_reach_hosts_of_every_process(simulate: Simulate) -> None:
    simulation = await simulate("--hosts", "4", "--processes", "2")
    simulator, ports = simulation.simulator, simulation.ports
    added = await simulator.add_vms([ports[0], ports[3]], count=2)
    assert sorted(added) == [ports[0], ports[3]]
    assert await simulator.vms([ports[3]]) == {ports[3]: dict.fromkeys(added[ports[3]], "Up")}
    await simulator.crash([ports[3]])
    await simulator.refuse([ports[0]])
    assert not listens(ports[3])
    assert not listens(ports[0])
    assert [each.state for each in (await simulator.counters()).values()] == [
        "refusing", "listening", "listening", "crashed",
    ]  # fmt: skip
    await simulator.restore(None)
    vms = await simulator.vms()
    assert (len(vms[ports[0]]), len(vms[ports[3]])) == (2, 0)
    await simulator.remove_vms([ports[0]])
    assert await simulator.vms([ports[0]]) == {ports[0]: {}}
    for port in ports:
        await ask(port)


async def test_each_fault_can_be_set_and_cleared_over_the_control_socket(simulate: Simulate) -> None:
    simulation = await simulate("--hosts", "2", "--processes", "2")
    simulator, port = simulation.simulator, simulation.ports[1]
    async with Wire(port) as wire:
        await wire.greet()
        await simulator.error([port], code=99, count=1)
        assert (await wire.call("Host.getStats"))["error"]["code"] == 99
        await simulator.drop_replies([port], count=1)
        await simulator.silent([port])
        await simulator.slow([port], milliseconds=60_000)
        await simulator.clear([port])
        assert await wire.result("Host.ping2") is True
        await simulator.refuse_stale([port])
        await wire.call("Host.ping2", engine_epoch="2")
        assert "error" in await wire.call("Host.ping2", engine_epoch="1")
        await simulator.refuse_stale([port], on=False)
        assert "result" in await wire.call("Host.ping2", engine_epoch="1")
        wire.write(subscribe("jms.queue.events", "e"))
        await wire.call("Host.ping2")
        await simulator.event([port], kind="|net|host_conn|", params={"a": 1})
        event = await wire.message()
        assert (event["method"], event["params"]["a"]) == ("|net|host_conn|", 1)


async def test_hosts_of_different_processes_migrate_and_fence(simulate: Simulate) -> None:
    simulation = await simulate("--hosts", "2", "--processes", "2", "--migrate-seconds", "0.05")
    here, there = simulation.ports
    await simulation.simulator.add_vms([here], ids=["v"])
    async with Wire(here) as wire:
        await wire.greet()
        migrate = {"vmID": "v", "params": {"dst": f"127.0.0.1:{there}"}}
        wire.write(subscribe("jms.queue.events", "e") + send(request("VM.migrate", migrate)))
        assert (await wire.message())["params"]["v"]["status"] == "Migration Source"
        assert (await wire.message())["result"] is True
        assert (await wire.message())["params"]["v"]["status"] == "Down"
        assert await simulation.simulator.vms() == {here: {"v": "Down"}, there: {"v": "Up"}}
        fence = {"addr": "", "port": there, "agent": "", "username": "", "password": "", "action": "off"}
        assert (await wire.result("Host.fenceNode", fence))["operationStatus"] == "initiated"
        assert not listens(there)


@pytest.mark.parametrize(
    ("command", "details", "complaint"),
    [
        ("explode", {}, "unknown command 'explode'"),
        ("slow", {"milliseconds": -1}, "0 or more"),
        ("slow", {}, "whole number"),
        ("error", {"code": "99"}, "whole number"),
        ("event", {"kind": 5}, "kind"),
        ("add_vms", {"status": "Sleeping"}, "WaitForLaunch"),
        ("add_vms", {"ids": [5]}, "list of texts"),
        ("remove_vms", {"ids": "abc"}, "list of texts"),
    ],
)
async def test_a_wrong_command_is_refused_with_the_reason(
    simulate: Simulate, command: str, details: dict[str, object], complaint: str
) -> None:
    simulation = await simulate("--hosts", "1")
    with pytest.raises(Refused, match=complaint):
        await simulation.simulator.command(command, None, **details)


async def test_a_command_for_an_unknown_port_touches_nobody(simulate: Simulate) -> None:
    simulation = await simulate("--hosts", "1")
    with pytest.raises(Refused, match="no simulated host on port 1"):
        await simulation.simulator.crash([*simulation.ports, 1])
    await ask(simulation.ports[0])


async def test_nonsense_on_the_control_socket_ends_that_client_only(
    simulate: Simulate, tmp_path: Path
) -> None:
    simulation = await simulate("--hosts", "1")
    for nonsense in (b"hello\n", b"[]\n", b'{"call":1}\n', b'{"answer":7,"result":1}\n\n', b"\xff\n"):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "control")
        writer.write(nonsense)
        async with asyncio.timeout(START_SECONDS):
            assert await reader.read() == b""
        writer.close()
    assert await simulation.simulator.ports() == simulation.ports


async def test_the_control_socket_is_its_owners_alone(simulate: Simulate, tmp_path: Path) -> None:
    await simulate("--hosts", "1")
    assert (tmp_path / "control").stat().st_mode & 0o077 == 0


# --- beginnings that fail ---


async def complaint(*options: str) -> str:
    process = await run(*options)
    async with asyncio.timeout(START_SECONDS):
        out, err = await process.communicate()
    assert process.returncode != 0
    assert out == b""
    text = err.decode()
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("processes", ["1", "3"])
async def test_a_port_in_use_is_a_clear_error_whichever_process_wanted_it(processes: str, place: int) -> None:
    first = free_ports(3)[0]
    with bound_socket(first + place) as taken:
        taken.listen()
        text = await complaint("--base-port", str(first), "--hosts", "3", "--processes", processes)
    assert text == f"engine-simulator: port {first + place} of 127.0.0.1: Address already in use\n"
    assert not any(map(listens, range(first, first + 3)))


async def test_impossible_options_are_refused() -> None:
    assert "belong together" in await complaint("--tls-cert", "x")
    assert "beyond port 65535" in await complaint("--base-port", "65530", "--hosts", "10")
    assert "from 1 to" in await complaint("--hosts", "0")
    missing = ("--tls-cert", "/nowhere", "--tls-key", "/nowhere", "--tls-ca", "/nowhere")
    assert "No such file" in await complaint("--base-port", "0", *missing)


# --- endings ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("processes", [1, 3])
async def test_a_signal_ends_it_cleanly_with_its_ports_and_files(
    simulate: Simulate, tmp_path: Path, number: signal.Signals, processes: int
) -> None:
    simulation = await simulate("--hosts", "6", "--processes", str(processes), "--log", str(tmp_path / "log"))
    async with Wire(simulation.ports[-1]) as wire:
        await wire.greet()
        await wire.call("Host.ping2")
        simulation.process.send_signal(number)
        assert await wire.reset()
        async with asyncio.timeout(START_SECONDS):
            assert await simulation.process.wait() == 0
    assert simulation.process.stderr is not None
    assert await simulation.process.stderr.read() == b""
    assert not any(map(listens, simulation.ports))
    assert not any(map(alive, simulation.ready["processes"]))
    assert not (tmp_path / "control").exists()
    assert len(read_requests(tmp_path / "log")) == 1


async def test_ctrl_c_on_all_processes_at_once_is_a_clean_end(simulate: Simulate) -> None:
    simulation = await simulate("--hosts", "6", "--processes", "3")
    for pid in reversed(simulation.ready["processes"]):
        os.kill(pid, signal.SIGINT)
    async with asyncio.timeout(START_SECONDS):
        assert await simulation.process.wait() == 0


async def test_a_killed_simulation_leaves_no_process_and_loses_no_line(
    simulate: Simulate, tmp_path: Path
) -> None:
    simulation = await simulate("--hosts", "4", "--processes", "2", "--log", str(tmp_path / "log"))
    for port in simulation.ports:
        await ask(port)
    simulation.process.kill()
    await simulation.process.wait()
    await until(lambda: not any(map(listens, simulation.ports)))
    assert len(read_requests(tmp_path / "log")) == 4


async def test_a_simulation_that_loses_a_process_ends_with_an_error(simulate: Simulate) -> None:
    simulation = await simulate("--hosts", "4", "--processes", "2")
    os.kill(simulation.ready["processes"][1], signal.SIGKILL)
    async with asyncio.timeout(START_SECONDS):
        assert await simulation.process.wait() == 1
    assert not any(map(listens, simulation.ports))


async def test_it_dies_with_its_parent_when_asked_to() -> None:
    script = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'plugins.simulator.main', '--base-port', '0',"
        " '--hosts', '4', '--processes', '2', '--die-with-parent'])\n"
        "child.wait()\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    async with asyncio.timeout(START_SECONDS):
        ready = json.loads(await parent.stdout.readline())
        assert listens(ready["base_port"])
        parent.kill()
        await parent.wait()
        assert await parent.stdout.read() == b""  # the last process that held the pipe is gone
    assert not any(map(listens, range(ready["base_port"], ready["base_port"] + 4)))


async def test_it_starts_again_on_the_same_ports_at_once(simulate: Simulate, tmp_path: Path) -> None:
    simulation = await simulate("--hosts", "3")
    await ask(simulation.ports[0])
    await end(simulation.process)
    again = await run("--base-port", str(simulation.ports[0]), "--hosts", "3")
    try:
        assert again.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            assert json.loads(await again.stdout.readline())["base_port"] == simulation.ports[0]
    finally:
        await end(again)


# --- the command line of the control ---


async def ctl(simulation: Simulation, *arguments: str) -> tuple[int, str, str]:
    process = await run("ctl", "--control", simulation.ready["control"], *arguments)
    async with asyncio.timeout(START_SECONDS):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_a_fleet_is_commanded_from_the_shell(simulate: Simulate) -> None:
    simulation = await simulate("--hosts", "3")
    first, second, third = simulation.ports
    assert await ctl(simulation, "--hosts", f"{first},{third}", "crash") == (
        0,
        f'{{"host":{first}}}\n{{"host":{third}}}\n',
        "",
    )
    assert [listens(port) for port in simulation.ports] == [False, True, False]
    assert (await ctl(simulation, "restore"))[0] == 0
    status, out, _ = await ctl(simulation, "--hosts", f"{first}-{second}", "add_vms", "--count", "2")
    assert status == 0
    assert [len(json.loads(line)["add_vms"]) for line in out.splitlines()] == [2, 2]
    assert (await ctl(simulation, "error", "99", "--count", "1"))[0] == 0
    assert (await ctl(simulation, "event", "|net|host_conn|", "--params", '{"a":1}'))[0] == 0
    assert (await ctl(simulation, "drop_replies", "--count", "1", "--verbs", "VM.create"))[0] == 0
    status, out, _ = await ctl(simulation, "--hosts", str(third), "power", "off")
    assert json.loads(out)["power"]["power"] == "off"
    assert (await ctl(simulation, "slow", "5", "--verbs", "VM.nonsense"))[0] == 1
    assert await simulation.simulator.power([third], action="on") == {third: "on"}
    status, out, _ = await ctl(simulation, "counters")
    assert [json.loads(line)["counters"]["vms"] for line in out.splitlines()] == [2, 2, 0]


async def test_the_shell_tells_why_a_command_failed(simulate: Simulate, tmp_path: Path) -> None:
    simulation = await simulate("--hosts", "1")
    status, _, err = await ctl(simulation, "--hosts", "7", "crash")
    assert (status, err) == (1, "engine-simulator ctl: no simulated host on port 7\n")
    status, _, err = await ctl(simulation, "--hosts", "x", "crash")
    assert status == 2
    assert "neither a port nor a range" in err
    text = await complaint("ctl", "--control", str(tmp_path / "nothing"), "vms")
    assert "no fleet answers" in text


# --- many hosts ---


async def test_two_thousand_hosts_are_ready_at_once_and_small(simulate: Simulate, tmp_path: Path) -> None:
    await _many(simulate, tmp_path, hosts=2_000, limit_mib=300)


@pytest.mark.soak
async def test_ten_thousand_hosts_fit_into_one_and_a_half_gib(simulate: Simulate, tmp_path: Path) -> None:
    await _many(simulate, tmp_path, hosts=10_000, limit_mib=1_536)


async def _many(simulate: Simulate, tmp_path: Path, *, hosts: int, limit_mib: int) -> None:
    began = time.monotonic()
    simulation = await simulate("--hosts", str(hosts), "--log", str(tmp_path / "log"))
    print(f"simulator_start_{hosts}_hosts: {time.monotonic() - began:.2f} s")
    for first in range(0, hosts, 500):
        await asyncio.gather(*map(ask, simulation.ports[first : first + 500]))
    resident = sum(map(resident_mib, simulation.ready["processes"]))
    print(f"simulator_rss_{hosts}_hosts: {resident} MiB")
    assert resident < limit_mib
    assert {entry.host for entry in read_requests(tmp_path / "log")} == set(simulation.ports)


def test_the_client_is_told_when_no_fleet_is_there(tmp_path: Path) -> None:
    async def connect() -> None:
        async with open_simulator(tmp_path / "nothing"):
            pass

    with pytest.raises(FileNotFoundError):
        asyncio.run(connect())


async def test_an_agent_is_started_again_over_ssh_in_whatever_process_it_is(
    simulate: Simulate, tmp_path: Path
) -> None:
    files = tmp_path / "ssh"
    simulation = await simulate("--hosts", "4", "--processes", "2", "--ssh", str(files))
    victim = simulation.ports[-1]
    await simulation.simulator.refuse([victim])
    door = {"username": "root", "known_hosts": str(files / "known_hosts"), "config": None}
    async with asyncssh.connect(
        "127.0.0.1", simulation.ready["ssh_port"], client_keys=[str(files / "client_key")], **door
    ) as connection:
        done = await connection.run(f"vdsm-tool service-restart vdsmd {victim}")
        assert (done.exit_status, done.stderr) == (0, "")
        await ask(victim)
        await simulation.simulator.crash([victim])
        refused = await connection.run(f"vdsm-tool service-restart vdsmd {victim}")
        assert refused.exit_status == 1
        assert f"host {victim} is dead" in str(refused.stderr)
    assert (await simulation.simulator.counters([victim]))[victim].restarts == 1


async def test_nobody_without_the_key_is_let_in(simulate: Simulate, tmp_path: Path) -> None:
    simulation = await simulate("--hosts", "1", "--ssh", str(tmp_path / "ssh"))
    stranger = asyncssh.generate_private_key("ssh-ed25519")
    with pytest.raises(asyncssh.PermissionDenied):
        await asyncssh.connect(
            "127.0.0.1",
            simulation.ready["ssh_port"],
            username="root",
            client_keys=[stranger],
            known_hosts=None,
            config=None,
        )
