"""`GET /v1/hosts/{id}` beside bare Falcon ASGI responders doing the same SELECT under the same worker.

Each is served by gunicorn's own asgi worker, one process, on one SQLite file with 1,000 hosts; the
load comes from this process over a few kept-alive connections, each with one request at a time. All
run at once and are asked turn about, so that a busy machine slows all. Prints `name: value unit`:
medians of the turns and of the turns' ratios; and the worker's CPU time a request, which other
processes on the machine disturb less.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.clock import boottime
from engine.coordination.local import LocalServer
from engine.db import migrate
from engine.db.database import Database
from engine.hosts.store import HostStore
from engine.processes import leashed

HOSTS = 1000
CONNECTIONS = 8
TURNS = 5
SHARDS = 256
START_SECONDS = 30.0
ROOT = Path(__file__).resolve().parents[2]


class Connection(asyncio.Protocol):
    """Asks again as soon as it is answered, until it is told to stop."""

    def __init__(self, requests: Sequence[bytes], offset: int) -> None:
        self._requests = requests
        self._next = offset
        self._received = b""
        self._deadline = 0.0
        self.answered = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def run(self, seconds: float) -> None:
        self._deadline = boottime() + seconds
        self._ask()

    def _ask(self) -> None:
        self._transport.write(self._requests[self._next % len(self._requests)])
        self._next += 1

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if length is None or not head.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(f"the server answered {self._received[:300]!r}"))
            return
        if len(body) < int(length[1]):
            return
        self._received = body[int(length[1]) :]
        self.answered += 1
        if boottime() < self._deadline:
            self._ask()
        else:
            self._transport.close()
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionResetError("the server closed the connection"))


@dataclass(frozen=True, slots=True)
class Server:
    """Where it listens, and its one worker."""

    port: int
    worker: int

    def cpu_seconds(self) -> float:
        """What the worker has used so far."""
        fields = Path(f"/proc/{self.worker}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Turn:
    """Requests a second, and the worker's CPU time for each in microseconds."""

    rate: float
    cpu_us: float


async def ask(server: Server, ids: Sequence[str], seconds: float) -> Turn:
    """Load the server for a while."""
    requests = [f"GET /v1/hosts/{host} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for host in ids]
    loop = asyncio.get_running_loop()
    connections = []
    for number in range(CONNECTIONS):
        offset = number * len(ids) // CONNECTIONS
        _transport, connection = await loop.create_connection(
            lambda offset=offset: Connection(requests, offset),  # type: ignore[misc]
            "127.0.0.1",
            server.port,
        )
        connections.append(connection)
    began, used = boottime(), server.cpu_seconds()
    for connection in connections:
        connection.run(seconds)
    await asyncio.gather(*(connection.done for connection in connections))
    answered = sum(connection.answered for connection in connections)
    return Turn(answered / (boottime() - began), (server.cpu_seconds() - used) / answered * 1e6)


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@contextlib.asynccontextmanager
async def serving(application: str, conf: Path, url: str) -> AsyncIterator[Server]:
    """`application` under one gunicorn worker."""
    argv = [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "etc/engine/gunicorn.conf.py")]
    argv += ["--bind", "127.0.0.1:0", "--workers", "1", application]
    environment = os.environ | {
        "ENGINE_CONFIG_FILE": str(conf),
        "BENCH_DATABASE_URL": url,
        "PYTHONPATH": str(ROOT),
    }
    log = conf.with_name(application.strip("()").replace(":", ".") + ".log")
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *leashed(argv), env=environment, stdout=output, stderr=output
        )
    try:
        yield Server(await listening(log, process), _child(process.pid))
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def listening(log: Path, process: asyncio.subprocess.Process) -> int:
    """The port, once a worker serves there."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            text = await asyncio.to_thread(log.read_text)
            found = re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", text)
            if found and "ASGI server listening" in text:
                return int(found[1])
            if process.returncode is not None:
                raise RuntimeError(f"gunicorn ended:\n{text}")
            await asyncio.sleep(0.05)


async def fill(url: str) -> list[str]:
    """1,000 hosts; their ids."""
    await migrate.upgrade(url)
    async with Database(url) as database:
        store = HostStore(database)
        added = [
            await store.add(
                name=f"host-{n:04}",
                address=f"10.0.{n // 250}.{n % 250}",
                port=1,
                driver="vdsm",
                shards=SHARDS,
            )
            for n in range(HOSTS)
        ]
    return [str(host.id) for host in added]


async def measure(directory: Path, zookeeper: str, seconds: float) -> None:
    url = f"sqlite+aiosqlite:///{directory}/engine.db"
    ids = await fill(url)
    conf = directory / "engine.conf"
    conf.write_text(
        f"[coordination]\nhosts = {zookeeper}\ntick_seconds = 0.5\n[database]\nurl = {url}\n"
        f"[sharding]\nshards = {SHARDS}\n"
    )
    async with (
        serving("engine.api.app:from_environment()", conf, url) as ours,
        serving("tests.bench.bare_api:stock()", conf, url) as stock,
        serving("tests.bench.bare_api:tuned()", conf, url) as tuned,
    ):
        servers = (ours, stock, tuned)
        for server in servers:
            await ask(server, ids, min(seconds, 0.5))  # statements are compiled, pools are full
        each = seconds / len(servers) / TURNS
        turns = [[await ask(server, ids, each) for server in servers] for _ in range(TURNS)]
    report(turns)


def report(turns: Sequence[Sequence[Turn]]) -> None:
    """Print the medians; each of `turns` holds ours, stock and tuned."""
    names = ("engine API", "bare Falcon", "bare Falcon on our driver")
    for number, name in enumerate(names):
        print(
            f"get one host, {name}: {statistics.median(turn[number].rate for turn in turns):.0f} requests/s"
        )
        print(f"CPU, {name}: {statistics.median(turn[number].cpu_us for turn in turns):.0f} us/request")
    for number, name in enumerate(names[1:], start=1):
        ratio = statistics.median(turn[0].rate / turn[number].rate for turn in turns)
        print(f"get one host, engine API over {name}: {ratio:.2f} ratio")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to measure, in all")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="bench-api-") as name:
        directory = Path(name)
        with LocalServer(directory / "zookeeper") as zookeeper:
            asyncio.run(measure(directory, zookeeper.hosts, seconds))


if __name__ == "__main__":
    main()
