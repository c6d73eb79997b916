"""Private servers: started, stopped, kept, wiped; and gone with whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.coordination.distribution import Distribution
from engine.coordination.local import LocalServer
from engine.coordination.session import SessionSettings, open_session
from engine.errors import Conflict, InvalidInput, Unavailable
from engine.ports import free_port
from tests.contract.coordination.conftest import settings_for

ORPHANING_PARENT = """
import sys, time
from pathlib import Path
from engine.coordination.local import LocalServer
server = LocalServer(Path(sys.argv[1])); server.start()
print(server.pid, flush=True)
time.sleep(60)
"""


def settings(server: LocalServer, cluster: str) -> SessionSettings:
    return settings_for(server.hosts, cluster)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_serves_on_the_loopback_interface_only(zookeeper: LocalServer) -> None:
    assert zookeeper.mode() == "standalone"
    assert zookeeper.ask("ruok") == "imok"
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    inodes = {os.readlink(f) for f in Path(f"/proc/{zookeeper.pid}/fd").iterdir() if os.path.islink(f)}
    sockets = [
        line.split()[1] for line in listening.splitlines()[1:]
        if len(line.split()) > 9 and line.split()[3] == "0A" and f"socket:[{line.split()[9]}]" in inodes
    ]  # fmt: skip
    port = f"{zookeeper.port:04X}"
    assert sockets
    assert all(
        address in (f"0100007F:{port}", f"0000000000000000FFFF00000100007F:{port}") for address in sockets
    )


async def test_data_outlives_a_restart_and_a_kill_but_not_a_wipe(
    own_zookeeper: LocalServer, cluster_name: str
) -> None:
    port = own_zookeeper.port
    async with open_session(settings(own_zookeeper, cluster_name)) as session:
        await session.ensure(session.paths.root)
    own_zookeeper.restart()
    own_zookeeper.kill()
    own_zookeeper.start()
    assert own_zookeeper.port == port
    async with open_session(settings(own_zookeeper, cluster_name)) as session:
        assert await session.exists(session.paths.root) is not None
    with pytest.raises(InvalidInput):
        own_zookeeper.wipe()
    own_zookeeper.stop()
    own_zookeeper.wipe()
    own_zookeeper.start()
    async with open_session(settings(own_zookeeper, cluster_name)) as session:
        assert await session.exists(session.paths.root) is None


def test_a_port_in_use_is_said(zookeeper: LocalServer, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match=f"port {zookeeper.port} for ZooKeeper is in use"):
        LocalServer(tmp_path, port=zookeeper.port).start()


def test_a_server_that_does_not_come_up_shows_its_last_words(tmp_path: Path) -> None:
    broken = Distribution("/bin/sh", "x", (3, 8, 0))
    server = LocalServer(tmp_path, port=free_port(), distribution=broken)
    with pytest.raises(Unavailable, match=r"ended at once \(exit code \d+\):\n.*Illegal option"):
        server.start()
    server.close()


def test_a_server_ends_with_its_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHANING_PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(pid)


def test_stopping_twice_is_no_error(tmp_path: Path) -> None:
    server = LocalServer(tmp_path)
    server.stop()
    server.start()
    server.freeze()
    server.stop()
    server.close()
    assert not server.running
