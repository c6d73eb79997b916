"""ZooKeeper goes away under a running cluster: nobody acts without authority, and all comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from engine.clock import boottime
from engine.local_cluster.cluster import LocalCluster
from engine.local_cluster.state import StateDirectory
from engine.local_cluster.timings import PERIOD_SECONDS, demo_layout
from plugins.simulator.log import Request, read_log
from plugins.simulator.witness import asked_by_two

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    layout = demo_layout(hosts=12, tls=False)
    async with LocalCluster(layout, StateDirectory(tmp_path), progress=lambda _: None) as running:
        await running.ready()
        yield running


def requests(cluster: LocalCluster) -> list[Request]:
    return [e for e in read_log(cluster.directory.simulator / "log") if isinstance(e, Request)]


async def test_without_zookeeper_nobody_is_asked_and_then_everybody_again(cluster: LocalCluster) -> None:
    assert cluster.zookeeper is not None
    await asyncio.to_thread(cluster.zookeeper.kill)
    gone = boottime()
    await until_not_ready(cluster)
    # Authority has ended by now: it is shorter than the session.
    await asyncio.sleep(cluster.layout.session_seconds + PERIOD_SECONDS)
    quiet_from = gone + cluster.layout.session_seconds
    assert [r for r in requests(cluster) if r.t > quiet_from] == []
    back = boottime()
    cluster.zookeeper.start(wait=False)
    await cluster.ready()
    async with asyncio.timeout(60):
        while len({r.host for r in requests(cluster) if r.t > back}) < len(cluster.host_ports):  # noqa: ASYNC110 (other processes)
            await asyncio.sleep(0.2)
    assert asked_by_two(requests(cluster)) == []


async def test_a_wiped_zookeeper_starts_a_new_incarnation_and_epochs_go_on_growing(
    cluster: LocalCluster,
) -> None:
    assert cluster.zookeeper is not None
    before = {r.host: r.epoch or 0 for r in requests(cluster)}
    await asyncio.to_thread(cluster.zookeeper.stop)
    cluster.zookeeper.wipe()
    back = boottime()
    cluster.zookeeper.start(wait=False)
    await cluster.ready()
    async with asyncio.timeout(90):
        while True:
            later = {r.host: r.epoch or 0 for r in requests(cluster) if r.t > back}
            grown = [host for host, epoch in before.items() if later.get(host, 0) > epoch]
            if len(grown) == len(cluster.host_ports):
                break
            await asyncio.sleep(0.2)
    assert asked_by_two(requests(cluster)) == []


async def until_not_ready(cluster: LocalCluster) -> None:
    """The API notices and says why."""
    async with asyncio.timeout(60), httpx.AsyncClient(base_url=cluster.api_url) as client:
        while (answer := await client.get("/readyz")).status_code == 200:  # noqa: ASYNC110 (another process)
            await asyncio.sleep(0.1)
    assert "ookeeper" in answer.text
