"""A protected resource and engine processes that are killed, frozen and cut off: never two at once.

The resource takes a write only under a token as great as any that it has seen, and remembers who tried.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.coordination.closing import close_session
from engine.coordination.identity import SessionIdentity
from engine.coordination.local import LocalServer
from engine.processes import leashed
from tests.contract.singletons.writer import SESSION_SECONDS
from tests.unit.singletons.waiting import until


@dataclass(frozen=True, slots=True)
class Write:
    """`t` is when the writer sent it (CLOCK_BOOTTIME)."""

    engine: str
    token: int
    t: float
    accepted: bool


class Resource:
    """Listens on a socket; the writers are served by the loop of the test."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.highest = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            while line := await reader.readline():
                said = json.loads(line)
                self.highest = max(self.highest, said["token"])
                self.writes.append(Write(**said, accepted=said["token"] == self.highest))

    def by(self, engine: str) -> list[Write]:
        return [write for write in self.writes if write.engine == engine]

    async def written_by(self, engine: str, *, seconds: float = 40) -> None:
        """Wait for a write that comes from now on."""
        before = len(self.by(engine))
        await until(lambda: len(self.by(engine)) > before, seconds=seconds)


class Cluster:
    """Writers, each a process without a supervisor."""

    def __init__(self, server: LocalServer, cluster: str, socket: Path) -> None:
        self._server, self._cluster, self._socket = server, cluster, socket
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, name: str, *, hosts: str | None = None) -> None:
        arguments = [hosts or self._server.hosts, self._cluster, name, str(self._socket)]
        self._processes[name] = await asyncio.create_subprocess_exec(
            *leashed([sys.executable, "-m", "tests.contract.singletons.writer", *arguments]),
            stdout=asyncio.subprocess.PIPE,
        )
        self.session = await self.session_of(name)

    async def session_of(self, name: str) -> SessionIdentity:
        out = self._processes[name].stdout
        assert out is not None
        async with asyncio.timeout(60):
            said = json.loads(await out.readline())
        return SessionIdentity(said["session"], bytes.fromhex(said["password"]), SESSION_SECONDS)

    def signal(self, name: str, number: signal.Signals) -> None:
        os.kill(self._processes[name].pid, number)

    async def close(self) -> None:
        for process in self._processes.values():
            if process.returncode is None:
                process.kill()
            await process.wait()


@pytest.fixture
async def resource(tmp_path: Path) -> AsyncIterator[Resource]:
    made = Resource()
    server = await asyncio.start_unix_server(made.serve, tmp_path / "resource")
    yield made
    server.close()


@pytest.fixture
async def cluster(
    zookeeper: LocalServer, cluster_name: str, resource: Resource, tmp_path: Path
) -> AsyncIterator[Cluster]:
    made = Cluster(zookeeper, cluster_name, tmp_path / "resource")
    yield made
    await made.close()


async def test_a_killed_leader_is_followed_by_one_with_a_greater_token(
    zookeeper: LocalServer, cluster: Cluster, resource: Resource
) -> None:
    await cluster.start("e1")
    session = cluster.session
    await resource.written_by("e1")
    await cluster.start("e2")
    cluster.signal("e1", signal.SIGKILL)
    await asyncio.to_thread(close_session, zookeeper.hosts, session)  # as its supervisor does
    await resource.written_by("e2")
    assert resource.by("e1")[-1].t < resource.by("e2")[0].t
    assert all(write.accepted for write in resource.writes)


async def test_a_leader_that_was_frozen_writes_nothing_that_is_accepted_after_the_thaw(
    cluster: Cluster, resource: Resource
) -> None:
    await cluster.start("e1")
    await resource.written_by("e1")
    await cluster.start("e2")
    cluster.signal("e1", signal.SIGSTOP)
    await resource.written_by("e2")
    heir = resource.by("e2")[0]
    cluster.signal("e1", signal.SIGCONT)
    await cluster.session_of("e1")  # it has understood, and opened a fresh one
    await resource.written_by("e2")
    late = [write for write in resource.by("e1") if write.token < heir.token and write.t > heir.t]
    assert len(late) <= 1, "one may have been between its check and its write"
    assert not [write for write in late if write.accepted]
    # Accepted writes change hands: under no token after another's greater one.
    accepted = [write.token for write in resource.writes if write.accepted]
    assert accepted == sorted(accepted)


async def test_a_leader_that_is_cut_off_has_stopped_before_the_next_one_begins(
    zookeeper: LocalServer, cluster: Cluster, resource: Resource
) -> None:
    link = zookeeper.link()
    await cluster.start("e1", hosts=link.hosts)
    await resource.written_by("e1")
    await cluster.start("e2")
    link.freeze()
    await resource.written_by("e2")
    heir = resource.by("e2")[0]
    assert resource.by("e1")[-1].t < heir.t
    link.thaw()
    await cluster.session_of("e1")
    await resource.written_by("e2")
    assert not [write for write in resource.by("e1") if write.token < heir.token and write.t >= heir.t]
    assert all(write.accepted for write in resource.writes)
