"""An API process dies, or freezes, between taking a command's locks and inserting its row.

PostgreSQL is made to keep the insert waiting; what the process had locked is freed by the sweeper,
and the row of the one that was frozen comes too late to run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from engine.coordination.session import SessionSettings, open_session
from engine.locks.lock import Locks
from tests.cluster.lab import Lab, laboratory
from tests.databases import only_postgresql

pytestmark = [pytest.mark.timeout(400), only_postgresql]

SWEPT_SECONDS = 60.0


@contextlib.asynccontextmanager
async def inserts_waiting(url: str) -> AsyncIterator[None]:
    """Nobody inserts a command meanwhile; everybody reads."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE command IN SHARE MODE")
            yield
    finally:
        await connection.close()


def worker_of(lab: Lab) -> int:
    """The only API worker's pid."""
    assert lab.cluster.api is not None
    parent = lab.cluster.api.pid
    return int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])


@contextlib.asynccontextmanager
async def locks_of(lab: Lab) -> AsyncIterator[Locks]:
    """Read by somebody else than the API."""
    assert lab.cluster.zookeeper is not None
    settings = SessionSettings(hosts=lab.cluster.zookeeper.hosts, cluster=lab.cluster.layout.cluster)
    async with open_session(settings) as session:
        yield Locks(session, engine="onlooker", incarnation=1)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_what_a_lost_submitter_had_locked_is_freed_and_its_row_never_runs(
    tmp_path: Path, migrated_url: str, how: signal.Signals
) -> None:
    async with (
        laboratory(tmp_path / "state", engines=2, hosts=2, api_workers=1, database_url=migrated_url) as lab,
        locks_of(lab) as locks,
    ):

        async def held() -> bool:
            return bool(await locks.holders())

        async def swept() -> bool:
            return not await held()

        await lab.post("/v1/vms", {"name": "vm-1", "memory_bytes": 2**28})
        lab.begin()
        worker = worker_of(lab)
        async with inserts_waiting(migrated_url):
            asking = asyncio.create_task(lab.http.post("/v1/vms/vm-1/run", json={}))
            await lab.until(held, what="the submitter has its locks")
            os.kill(worker, how)
        if how is signal.SIGKILL:
            with pytest.raises(httpx.TransportError):
                await asking
        await lab.until(swept, seconds=SWEPT_SECONDS, what="its locks are swept")
        if how is signal.SIGSTOP:
            os.kill(worker, signal.SIGCONT)
            with contextlib.suppress(httpx.TransportError):
                assert not (await asking).is_success
        commands = (await lab.get("/v1/commands?limit=100"))["commands"]
        assert [c["state"] for c in commands if c["type"] in ("run_vm", "abandoned")] == ["failed"]
        assert lab.asked("VM.create") == []
        await lab.do("/v1/vms/vm-1/run")
        await lab.vm_is("vm-1", "up")
        assert len(lab.asked("VM.create")) == 1
