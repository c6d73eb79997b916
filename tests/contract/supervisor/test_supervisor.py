"""The supervisor ends the session of a dead, mute or frozen child long before ZooKeeper would.

The child's session lasts 30 s, so what vanishes within 10 s was closed by the supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.coordination.local import LocalServer
from engine.coordination.session import Session, SessionSettings, open_session
from engine.processes import leashed

CHILD = Path(__file__).with_name("child.py")
RUN = "import sys; from engine.supervisor import Supervisor; sys.exit(Supervisor(sys.argv[1:]).run())"
SOON = 10.0


class Supervised:
    """A supervisor process with its child, seen through the child's node."""

    def __init__(self, session: Session, path: str, process: asyncio.subprocess.Process) -> None:
        self.session = session
        self.path = path
        self.process = process

    async def child(self, *, other_than: int | None = None) -> int:
        """The pid that the node names, once it names one."""
        async with asyncio.timeout(SOON):
            while True:
                node = await self.session.get(self.path)
                if node is not None and int(node.data) != other_than:
                    return int(node.data)
                await asyncio.sleep(0.01)

    async def gone(self) -> None:
        async with asyncio.timeout(SOON):
            while await self.session.get(self.path) is not None:  # noqa: ASYNC110 (another process)
                await asyncio.sleep(0.01)


@pytest.fixture
async def session(zookeeper: LocalServer, cluster_name: str) -> AsyncIterator[Session]:
    settings = SessionSettings(hosts=zookeeper.hosts, cluster=cluster_name, tick_seconds=0.5)
    async with open_session(settings) as opened:
        yield opened


@contextlib.asynccontextmanager
async def supervised(
    session: Session, zookeeper: LocalServer, what: str, **environment: str
) -> AsyncIterator[Supervised]:
    path = f"{session.paths.root}/child"
    argv = [sys.executable, str(CHILD), zookeeper.hosts, session.paths.cluster, path, what]
    process = await asyncio.create_subprocess_exec(
        *leashed([sys.executable, "-c", RUN, *argv]), env={**os.environ, **environment}
    )
    try:
        yield Supervised(session, path, process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_killed_child_leaves_no_session_and_is_started_again(
    session: Session, zookeeper: LocalServer
) -> None:
    async with supervised(session, zookeeper, "serve") as running:
        first = await running.child()
        os.kill(first, signal.SIGKILL)
        await running.child(other_than=first)


async def test_a_child_that_stops_beating_is_killed(session: Session, zookeeper: LocalServer) -> None:
    async with supervised(session, zookeeper, "mute") as running:
        first = await running.child()
        await running.child(other_than=first)
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)


async def test_a_frozen_child_is_killed_and_replaced(session: Session, zookeeper: LocalServer) -> None:
    async with supervised(session, zookeeper, "serve") as running:
        first = await running.child()
        os.kill(first, signal.SIGSTOP)
        await running.child(other_than=first)


async def test_a_supervisor_that_was_frozen_alone_spares_its_child(
    session: Session, zookeeper: LocalServer
) -> None:
    async with supervised(session, zookeeper, "serve") as running:
        first = await running.child()
        running.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(1.5)  # longer than one beat carries
        running.process.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.5)
        assert await running.child() == first
        os.kill(first, signal.SIGKILL)  # and it still watches
        await running.child(other_than=first)


async def test_a_child_ends_with_its_supervisor(session: Session, zookeeper: LocalServer) -> None:
    async with supervised(session, zookeeper, "serve") as running:
        child = await running.child()
        pidfd = os.pidfd_open(child)
        try:
            running.process.kill()
            async with asyncio.timeout(SOON):
                await _readable(pidfd)
        finally:
            os.close(pidfd)


async def test_sigterm_reaches_the_child_and_a_clean_end_is_passed_on(
    session: Session, zookeeper: LocalServer
) -> None:
    async with supervised(session, zookeeper, "serve") as running:
        await running.child()
        running.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(SOON):
            assert await running.process.wait() == 0
        await running.gone()


async def test_a_child_that_refuses_its_configuration_is_not_started_again(
    session: Session, zookeeper: LocalServer
) -> None:
    async with supervised(session, zookeeper, "refuse") as running, asyncio.timeout(SOON):
        assert await running.process.wait() == os.EX_CONFIG


async def test_systemd_hears_ready_watchdog_and_stopping(
    session: Session, zookeeper: LocalServer, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        async with supervised(session, zookeeper, "serve", NOTIFY_SOCKET=str(tmp_path / "notify")) as running:
            heard: set[bytes] = set()
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(SOON):
                while not {b"READY=1", b"WATCHDOG=1"} <= heard:
                    heard.add(await loop.sock_recv(listener, 100))
                running.process.send_signal(signal.SIGTERM)
                while b"STOPPING=1" not in heard:
                    heard.add(await loop.sock_recv(listener, 100))


async def test_systemd_hears_of_a_supervisor_that_waits_before_it_starts_a_child_again(
    tmp_path: Path,
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        process = await asyncio.create_subprocess_exec(
            *leashed([sys.executable, "-c", RUN, sys.executable, "-c", "raise SystemExit(3)"]),
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
        )
        try:
            async with asyncio.timeout(SOON):
                assert await asyncio.get_running_loop().sock_recv(listener, 100) == b"WATCHDOG=1"
        finally:
            process.kill()
            await process.wait()


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, done.cancel)
    try:
        await asyncio.wait([done])
    finally:
        loop.remove_reader(fd)
