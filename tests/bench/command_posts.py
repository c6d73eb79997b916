"""The part of `bench_commands` that goes through the whole: gunicorn's API, ZooKeeper, an engine process.

A command without steps is posted with `wait`, so that the answer is its outcome; over kept-alive
connections, each with one request at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import statistics
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path

import orjson

from engine.clock import boottime
from engine.coordination.session import SessionSettings
from engine.local_cluster.cluster import LocalCluster
from engine.local_cluster.layout import TICK_SECONDS, Layout
from engine.local_cluster.observer import Observer
from engine.local_cluster.state import StateDirectory

READY_SECONDS = 60.0
ROOT = Path(__file__).resolve().parents[2]
ENTRY_POINT = "[engine.commands]\nnoop = tests.bench.command_noop:Noop\n"

Say = Callable[[str, float, str], None]


@contextlib.contextmanager
def noop_installed(directory: Path) -> Iterator[None]:
    """For the processes that are started meanwhile: as a third party's package would be."""
    installed = directory / "bench_noop-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-noop\nVersion: 1\n")
    (installed / "entry_points.txt").write_text(ENTRY_POINT)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (str(directory), str(ROOT), before) if p)
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


@contextlib.asynccontextmanager
async def running(
    directory: Path, url: str, *, engines: int, workers: int
) -> AsyncIterator[tuple[LocalCluster, Observer]]:
    """A local cluster whose engines have divided all shards."""
    layout = Layout(
        engines=engines, hosts=0, api_port=0, zk_port=0, host_port=0, database_url=url, api_workers=workers
    )
    cluster = LocalCluster(layout, StateDirectory(directory), progress=lambda _told: None)
    async with cluster:
        assert cluster.zookeeper is not None
        settings = SessionSettings(
            hosts=cluster.zookeeper.hosts, cluster=layout.cluster, tick_seconds=TICK_SECONDS
        )
        async with Observer.watching(settings) as observer:
            await observer.settled(set(cluster.engines), layout.shards, seconds=READY_SECONDS)
            yield cluster, observer


class Poster:
    """Posts commands, each about something else. What a client library does for each request would count
    among the figures of a machine with two cores, so this one does nothing else."""

    def __init__(self, url: str) -> None:
        self._address, port = url.removeprefix("http://").split(":")
        self._port = int(port)
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._numbers = count()

    async def __aenter__(self) -> Poster:
        async with asyncio.timeout(READY_SECONDS):
            while not await self._ready():  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        for _reader, writer in self._free:
            writer.close()

    async def _ready(self) -> bool:
        try:
            return (await self._ask("GET /readyz"))[0] == 200
        except OSError:
            return False

    async def post(self) -> None:
        about = f"vm-{next(self._numbers)}"
        body = orjson.dumps({"type": "noop", "arguments": {"about": about}})
        status, answer = await self._ask("POST /v1/commands?wait=30s", body)
        if status != 200 or orjson.loads(answer)["state"] != "succeeded":
            raise RuntimeError(f"the API answered {status}: {answer!r}")

    async def _ask(self, what: str, body: bytes = b"") -> tuple[int, bytes]:
        if not self._free:
            self._free.append(await asyncio.open_connection(self._address, self._port))
        reader, writer = self._free.pop()
        head = f"{what} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answered = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", answered)
        content = await reader.readexactly(int(length[1]) if length else 0)
        self._free.append((reader, writer))
        return int(answered.split(b" ", 2)[1]), content

    async def one_by_one(self, number: int) -> list[float]:
        """Seconds of each."""
        taken = []
        for _ in range(number):
            began = boottime()
            await self.post()
            taken.append(boottime() - began)
        return taken

    async def many(self, number: int, *, at_once: int) -> float:
        """Commands a second."""

        async def some() -> None:
            for _ in range(number // at_once):
                await self.post()

        began = boottime()
        await asyncio.gather(*(some() for _ in range(at_once)))
        return (number // at_once) * at_once / (boottime() - began)


async def measure_posts(directory: Path, url: str, kind: str, say: Say, *, number: int, rounds: int) -> None:
    """`number` posts in each round of either kind."""
    taken: list[float] = []
    rates: list[float] = []
    with noop_installed(directory / "installed"):
        async with (
            running(directory / "state", url, engines=1, workers=2) as (cluster, _observer),
            Poster(cluster.api_url) as poster,
        ):
            await poster.many(64, at_once=16)  # statements are compiled, pools are full
            for _ in range(rounds):
                taken += await poster.one_by_one(number)
                rates.append(await poster.many(max(32, number * 4), at_once=32))
    taken.sort()
    say(f"post.{kind}.p50", statistics.median(taken) * 1e3, "ms (at most 25 on PostgreSQL)")
    say(f"post.{kind}.p99", taken[int(len(taken) * 0.99)] * 1e3, "ms")
    say(f"post.{kind}.rate", statistics.median(rates), "POSTs/s to succeeded (at least 150 on PostgreSQL)")
