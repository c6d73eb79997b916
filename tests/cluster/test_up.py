"""`engine up` and `engine down`, run as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import FREE_PORTS, Workplace, eventually

EXIT_NOT_FOUND, EXIT_CONFLICT = 4, 5

pytestmark = pytest.mark.timeout(240)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ports_of(workplace: Workplace) -> list[int]:
    endpoint = json.loads((workplace.state / "endpoint").read_text())
    hosts = workplace.ask("hosts", "list")
    return [
        int(endpoint["api"].rpartition(":")[2]),
        int(endpoint["zookeeper"].rpartition(":")[2]),
        *(int(host["Port"] if "Port" in host else host["port"]) for host in hosts),
    ]


def test_a_newcomer_sees_engines_divide_hosts_and_ctrl_c_leaves_nothing(workplace: Workplace) -> None:
    up = workplace.up()
    assert [m["engine"] for m in workplace.ask("members", "list")] == ["engine-1", "engine-2"]
    hosts = workplace.ask("hosts", "list")
    assert len(hosts) == 6
    assert {host["status"] for host in hosts} == {"up"}
    ports, children = ports_of(workplace), workplace.processes()
    assert {role for role, _ in children} == {"engine-1", "engine-2", "api", "simulator", "zookeeper"}
    begun = time.monotonic()
    up.interrupt()
    assert up.wait() == 0
    assert time.monotonic() - begun < 50  # asked for: 5 s
    assert not [role for role, pid in children if alive(pid)]
    assert not [port for port in ports if listens(port)]
    assert not (workplace.state / "endpoint").exists()


def test_state_survives_a_restart(workplace: Workplace) -> None:
    up = workplace.up()
    before = {host["name"]: host["id"] for host in workplace.ask("hosts", "list")}
    up.interrupt()
    assert up.wait() == 0
    workplace.up()
    assert {host["name"]: host["id"] for host in workplace.ask("hosts", "list")} == before


def test_a_second_up_in_the_same_directory_is_refused(workplace: Workplace) -> None:
    workplace.up()
    second = workplace.run("up", "--state-dir", str(workplace.state), *FREE_PORTS)
    assert second.returncode == EXIT_CONFLICT
    assert "already runs" in second.stderr
    assert "engine down" in second.stderr


def test_a_port_in_use_is_named_with_the_option_that_changes_it(workplace: Workplace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = workplace.run("up", "--state-dir", str(workplace.state), *FREE_PORTS, "--api-port", port)
    assert done.returncode == EXIT_CONFLICT
    assert port in done.stderr
    assert "--api-port" in done.stderr


def test_a_missing_java_is_named_with_its_package(workplace: Workplace, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    shutil.copy("/bin/sh", tmp_path / "bin" / "sh")
    done = workplace.run(
        "up", "--state-dir", str(workplace.state), *FREE_PORTS, PATH=str(tmp_path / "bin"), JAVA_HOME=""
    )
    assert done.returncode == EXIT_NOT_FOUND
    assert "default-jre-headless" in done.stderr


def test_down_stops_an_up(workplace: Workplace) -> None:
    up = workplace.up()
    children = workplace.processes()
    done = workplace.run("down", "--state-dir", str(workplace.state))
    assert done.returncode == 0
    assert "stopped the cluster" in done.stdout
    assert up.wait() == 0
    assert not [role for role, pid in children if alive(pid)]


def test_children_end_with_a_killed_up_and_down_cleans_up(workplace: Workplace) -> None:
    up = workplace.up()
    children = workplace.processes()
    up.process.send_signal(signal.SIGKILL)
    up.wait()
    eventually(lambda: not [r for r, pid in children if alive(pid)], what="the children end")
    done = workplace.run("down", "--state-dir", str(workplace.state))
    assert done.returncode == 0
    assert "nothing runs" in done.stdout
    workplace.up()  # and it starts again


def test_a_killed_engine_loses_no_host_and_comes_back(workplace: Workplace) -> None:
    workplace.up()
    victim = next(m for m in workplace.ask("members", "list") if m["engine"] == "engine-1")
    os.kill(victim["pid"], signal.SIGKILL)

    def back() -> bool:
        members = {m["engine"]: m["pid"] for m in workplace.ask("members", "list")}
        return bool(members.get("engine-1", victim["pid"]) != victim["pid"])

    eventually(back, what="engine-1 joins again with another pid")
    assert {host["status"] for host in workplace.ask("hosts", "list")} == {"up"}


def test_bad_options_are_named_with_what_is_allowed(workplace: Workplace) -> None:
    done = workplace.run("up", "--state-dir", str(workplace.state), "--engines", "0")
    assert done.returncode == 1
    assert "--engines" in done.stderr
    assert "1..16" in done.stderr
