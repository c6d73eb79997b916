"""An API process that freezes in the middle of an SQLite write has everybody's lock; its parent ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import httpx
import pytest

from engine.db.sqlite_writers import has_write_lock
from engine.local_cluster.cluster import LocalCluster
from engine.local_cluster.state import StateDirectory
from engine.local_cluster.timings import demo_layout
from engine.processes import start_time

pytestmark = pytest.mark.timeout(240)
DEADLINE_SECONDS = 120.0


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    layout = demo_layout(hosts=2, tls=False)
    async with LocalCluster(layout, StateDirectory(tmp_path), progress=lambda _: None) as running:
        await running.ready()
        yield running


def worker_of(cluster: LocalCluster) -> int:
    assert cluster.api is not None
    return int(Path(f"/proc/{cluster.api.pid}/task/{cluster.api.pid}/children").read_text().split()[0])


async def write_on_and_on(url: str) -> None:
    numbers = count()
    async with httpx.AsyncClient(base_url=url) as client:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                await client.post("/v1/vms", json={"name": f"vm-{next(numbers)}", "memory_bytes": 2**26})


async def frozen_in_a_write(pid: int, database: Path) -> None:
    """Stop it again and again, until it has the lock then."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(0)
        if has_write_lock(database, pid):
            return
        os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(0.003)


async def test_a_frozen_api_process_is_killed_and_everybody_writes_again(cluster: LocalCluster) -> None:
    worker = worker_of(cluster)
    started = start_time(worker)
    writing = asyncio.create_task(write_on_and_on(cluster.api_url))
    async with asyncio.timeout(DEADLINE_SECONDS):
        await frozen_in_a_write(worker, cluster.directory.database)
    writing.cancel()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while start_time(worker) == started:  # noqa: ASYNC110 (another process)
            await asyncio.sleep(0.1)
        async with httpx.AsyncClient(base_url=cluster.api_url, timeout=5.0) as client:
            for number in count():  # one that got no answer in time may have been added all the same
                with contextlib.suppress(httpx.HTTPError):
                    new = {"name": f"after-{number}", "memory_bytes": 2**26}
                    if (await client.post("/v1/vms", json=new)).status_code == 201:
                        break
                await asyncio.sleep(0.1)
