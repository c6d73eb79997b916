"""`engine node`: one engine as systemd runs it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.coordination.local import LocalServer
from engine.coordination.session import SessionSettings, open_session
from engine.db import migrate
from engine.ports import free_port
from tests.cluster.conftest import Command, Workplace, eventually

pytestmark = pytest.mark.timeout(180)


class Systemd:
    """Hears what a service tells systemd."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(60)

    def waits_for(self, state: str) -> None:
        while state not in self.heard:
            self.heard.append(self._socket.recv(4096).decode())

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    listener = Systemd(tmp_path / "notify")
    yield listener
    listener.close()


@pytest.fixture
def configured(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a configuration file for a node that uses the ZooKeeper at `hosts`."""
    url = f"sqlite+aiosqlite:///{tmp_path}/engine.db"
    asyncio.run(migrate.upgrade(url))

    def write(hosts: str) -> Path:
        path = tmp_path / "engine.conf"
        path.write_text(
            f"[engine]\nname = node-1\n[database]\nurl = {url}\n[sharding]\nshards = 8\n"
            f"[coordination]\nhosts = {hosts}\ntick_seconds = 0.5\ntimeout_seconds = 4\n"
        )
        return path

    return write


def start(workplace: Workplace, systemd: Systemd, path: Path) -> Command:
    return workplace.start("node", "--config-file", str(path), NOTIFY_SOCKET=str(systemd.path))


async def owned(hosts: str) -> int:
    async with open_session(SessionSettings(hosts=hosts, tick_seconds=0.5)) as session:
        shards = await session.children(session.paths.shards)
        nodes = await session.get_many([session.paths.owner(int(shard)) for shard in shards])
        return len([node for node in nodes if node is not None])


def test_a_node_tells_systemd_that_it_is_ready_and_drains_on_sigterm(
    workplace: Workplace,
    systemd: Systemd,
    configured: Callable[[str], Path],
    own_zookeeper: LocalServer,
) -> None:
    node = start(workplace, systemd, configured(own_zookeeper.hosts))
    systemd.waits_for("READY=1")
    systemd.waits_for("WATCHDOG=1")
    eventually(lambda: asyncio.run(owned(own_zookeeper.hosts)) == 8, what="it owns all shards")
    node.process.send_signal(signal.SIGTERM)
    systemd.waits_for("STOPPING=1")
    assert node.wait() == 0, node.output
    assert asyncio.run(owned(own_zookeeper.hosts)) == 0
    assert "draining" in node.output


def test_a_node_waits_for_zookeeper_and_says_so(
    workplace: Workplace, systemd: Systemd, configured: Callable[[str], Path], tmp_path: Path
) -> None:
    server = LocalServer(tmp_path / "late", port=free_port())
    port = server._wanted_port
    node = start(workplace, systemd, configured(f"127.0.0.1:{port}"))
    line = node.says(lambda said: "session over" in said or "ZooKeeper" in said)
    assert "127.0.0.1" in node.output or "ZooKeeper" in line
    assert "READY=1" not in systemd.heard
    with server:
        systemd.waits_for("READY=1")
        node.process.send_signal(signal.SIGTERM)
        assert node.wait() == 0


def test_a_schema_that_is_missing_is_named_with_the_command_that_makes_it(
    workplace: Workplace, systemd: Systemd, configured: Callable[[str], Path], own_zookeeper: LocalServer
) -> None:
    path = configured(own_zookeeper.hosts)
    (path.parent / "engine.db").unlink()
    node = start(workplace, systemd, path)
    node.says(lambda line: "engine db upgrade" in line)


def test_another_shard_count_than_the_clusters_is_refused_at_the_door(
    workplace: Workplace, systemd: Systemd, configured: Callable[[str], Path], own_zookeeper: LocalServer
) -> None:
    path = configured(own_zookeeper.hosts)
    first = start(workplace, systemd, path)
    systemd.waits_for("READY=1")
    first.process.send_signal(signal.SIGTERM)
    assert first.wait() == 0
    path.write_text(path.read_text().replace("shards = 8", "shards = 16"))
    second = workplace.start("node", "--config-file", str(path))
    assert second.wait() == os.EX_CONFIG
    assert "shards is 8 in this cluster" in second.output


def test_an_engine_on_another_database_than_the_clusters_is_refused_at_the_door(
    workplace: Workplace, systemd: Systemd, configured: Callable[[str], Path], own_zookeeper: LocalServer
) -> None:
    path = configured(own_zookeeper.hosts)
    start(workplace, systemd, path)
    systemd.waits_for("READY=1")
    other = path.parent / "elsewhere.db"
    asyncio.run(migrate.upgrade(f"sqlite+aiosqlite:///{other}"))
    text = path.read_text().replace("node-1", "node-2").replace("engine.db", other.name)
    (path.parent / "second.conf").write_text(text)
    second = workplace.start("node", "--config-file", str(path.parent / "second.conf"))
    assert second.wait() == os.EX_CONFIG
    assert "node-1" in second.output
    assert "works on another database" in second.output


def test_a_second_engine_of_the_same_name_is_refused_with_the_others_pid(
    workplace: Workplace, systemd: Systemd, configured: Callable[[str], Path], own_zookeeper: LocalServer
) -> None:
    path = configured(own_zookeeper.hosts)
    start(workplace, systemd, path)
    systemd.waits_for("READY=1")
    second = workplace.start("node", "--config-file", str(path))
    assert second.wait() == os.EX_CONFIG
    assert "node-1" in second.output
    assert "pid" in second.output


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("shards = 8", "shards = many", "shards"),
        ("tick_seconds = 0.5", "tick_seconds = -1", "tick_seconds"),
        ("name = node-1", "name = a/b", "name"),
    ],
)
def test_a_bad_option_is_named_and_ends_the_node(
    workplace: Workplace,
    systemd: Systemd,
    configured: Callable[[str], Path],
    old: str,
    new: str,
    named: str,
) -> None:
    path = configured("127.0.0.1:1")
    path.write_text(path.read_text().replace(old, new))
    node = start(workplace, systemd, path)
    assert node.wait() == os.EX_CONFIG
    assert named in node.output


def test_an_engine_whose_supervisor_is_frozen_goes_on(
    workplace: Workplace, systemd: Systemd, configured: Callable[[str], Path], own_zookeeper: LocalServer
) -> None:
    node = start(workplace, systemd, configured(own_zookeeper.hosts))
    systemd.waits_for("READY=1")
    eventually(lambda: asyncio.run(owned(own_zookeeper.hosts)) == 8, what="it owns all shards")
    children = Path(f"/proc/{node.process.pid}/task/{node.process.pid}/children").read_text().split()
    node.process.send_signal(signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        node.process.wait(6)  # longer than its session
    assert asyncio.run(owned(own_zookeeper.hosts)) == 8
    node.process.send_signal(signal.SIGCONT)
    node.process.send_signal(signal.SIGTERM)
    assert node.wait() == 0
    assert not any(Path(f"/proc/{child}").exists() for child in children)
