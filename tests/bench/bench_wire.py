"""What the VDSM driver costs: CPU a poll beside a bare asyncio client, and KiB an idle connection.

The agent is a process of its own that answers from memory; both clients run in this process, turn
about, and their CPU is this process's own. The bare client sends and parses the same frames with
nothing around them: no deadline, no authority, no limits, no checks. Memory is measured in a fresh
process each, as growth of its resident set. Prints `name: value unit`; CPU is the median of the turns.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import resource
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import orjson

from engine.plugin import EngineId, HostEvent, HostId, HostTarget
from engine.processes import leashed
from plugins.drivers.vdsm import VdsmDriver
from plugins.drivers.vdsm.stomp import Decoder, Frame, encode
from tests.unit.plugins.vdsm.certificates import CertificateAuthority, agent_context

CONNECTIONS = 200
AT_ONCE = 50
TURNS = 5
STATISTICS = {
    "vmCount": 12,
    "vmActive": 11,
    "vmMigrating": 0,
    "memFree": 40000,
    "cpuLoad": "0.07",
    "cpuIdle": "75.50",
    "network": {f"eth{n}": {"state": "up", "speed": "10000", "rx": "123456789", "tx": "1"} for n in range(6)},
    "storageDomains": {
        str(uuid.UUID(int=n)): {"delay": "0.00042", "lastCheck": "1.3", "code": 0, "valid": True}
        for n in range(4)
    },
}


class Always:
    """Authority without end."""

    def check(self) -> None:
        return None

    def remaining_seconds(self) -> float:
        return 3600.0


# --- the agent ---


class Agent(asyncio.Protocol):
    """Answers every request with the same statistics, as cheaply as may be."""

    result = orjson.dumps(STATISTICS)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.decoder = Decoder()

    def data_received(self, data: bytes) -> None:
        for frame in self.decoder.feed(data):
            if frame.command == "CONNECT":
                self.transport.write(b"CONNECTED\nversion:1.2\nheart-beat:0,0\n\n\0")
            elif frame.command == "SEND":
                request_id = orjson.loads(frame.body)["id"].encode()
                body = b'{"jsonrpc":"2.0","id":"%b","result":%b}' % (request_id, self.result)
                headers = {"destination": frame.headers["reply-to"], "subscription": "1"}
                self.transport.write(
                    encode(Frame("MESSAGE", {**headers, "content-type": "application/json"}, body))
                )


async def serve(certificates: str) -> None:
    loop = asyncio.get_running_loop()
    folder = Path(certificates)
    context = agent_context(*(str(folder / name) for name in ("ca.pem", "agent.pem", "agent.key")))
    plain = await loop.create_server(Agent, "127.0.0.1", 0, backlog=4096)
    secure = await loop.create_server(Agent, "127.0.0.1", 0, backlog=4096, ssl=context)
    print(*(server.sockets[0].getsockname()[1] for server in (plain, secure)), flush=True)
    await asyncio.Event().wait()


# --- the two clients ---


class BareClient(asyncio.Protocol):
    """The same frames with nothing around them."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.rest = b""
        self.calls: dict[str, asyncio.Future[Any]] = {}
        self.queue = str(uuid.uuid4())
        self.loop = asyncio.get_running_loop()
        self.transport.write(b"CONNECT\naccept-version:1.2\nhost:127.0.0.1\nheart-beat:0,0\n\n\0")
        self.transport.write(f"SUBSCRIBE\ndestination:{self.queue}\nid:1\nack:auto\n\n\0".encode())

    def data_received(self, data: bytes) -> None:
        *frames, self.rest = (self.rest + data).split(b"\0")
        for frame in frames:
            head, _, body = frame.partition(b"\n\n")
            command, *lines = head.decode().split("\n")
            headers = dict(line.split(":", 1) for line in lines)
            if command == "MESSAGE" and headers["subscription"] == "1":
                message = orjson.loads(body)
                self.calls.pop(message["id"]).set_result(message["result"])

    async def poll(self) -> dict[str, Any]:
        request_id = str(uuid.uuid4())
        request = {"jsonrpc": "2.0", "method": "Host.getStats", "params": {}, "id": request_id}
        body = orjson.dumps(request)
        headers = (
            f"SEND\ndestination:jms.topic.vdsm_requests\nreply-to:{self.queue}\n"
            "content-type:application/json\nengine-id:engine-1\nengine-epoch:7\n"
            f"content-length:{len(body)}\n\n"
        )
        reply = self.calls[request_id] = self.loop.create_future()
        self.transport.write(headers.encode() + body + b"\0")
        return cast(dict[str, Any], await reply)


async def bare_clients(port: int, count: int, context: ssl.SSLContext | None = None) -> list[BareClient]:
    loop = asyncio.get_running_loop()
    opened = []
    for _ in range(count):
        _, client = await loop.create_connection(BareClient, "127.0.0.1", port, ssl=context)
        opened.append(client)
    return opened


async def driver_connections(driver: VdsmDriver, port: int, count: int) -> list[Any]:
    target = HostTarget(HostId("h"), "127.0.0.1", port, EngineId("engine-1"), 7)

    def ignore(event: HostEvent) -> None:
        return None

    return [await driver.connect(target, authority=Always(), on_event=ignore) for _ in range(count)]


# --- measuring ---


async def cpu_per_poll(polls: Sequence[Callable[[], Awaitable[object]]], seconds: float) -> float:
    """Microseconds of this process's CPU a poll, `AT_ONCE` polls under way at any moment."""
    end = time.perf_counter() + seconds
    done = 0

    async def one_after_another(first: int) -> None:
        nonlocal done
        which = first
        while time.perf_counter() < end:
            await polls[which % len(polls)]()
            which += AT_ONCE
            done += 1

    before = time.process_time()
    await asyncio.gather(*(one_after_another(first) for first in range(AT_ONCE)))
    return (time.process_time() - before) / done * 1e6


async def compare(port: int, seconds: float) -> None:
    bare = [client.poll for client in await bare_clients(port, CONNECTIONS)]
    ours = [c.statistics for c in await driver_connections(VdsmDriver({}), port, CONNECTIONS)]
    turns = []
    for _ in range(TURNS):
        theirs = await cpu_per_poll(bare, seconds / TURNS / 2)
        turns.append((theirs, await cpu_per_poll(ours, seconds / TURNS / 2)))
    say("wire.cpu_per_poll.bare", statistics.median(turn[0] for turn in turns), "us")
    say("wire.cpu_per_poll.driver", statistics.median(turn[1] for turn in turns), "us")
    say("wire.cpu_per_poll.ratio", statistics.median(turn[1] / turn[0] for turn in turns), "times (target 2)")


async def hold(kind: str, port: int, certificates: str, count: int) -> None:
    """Open `count` idle connections and print what they cost, in KiB each."""
    folder = Path(certificates)
    files = dict(
        zip(
            ("ca_file", "cert_file", "key_file"),
            (str(folder / name) for name in ("ca.pem", "engine.pem", "engine.key")),
            strict=True,
        )
    )
    if kind == "asyncio-tls":
        context = ssl.create_default_context(cafile=files["ca_file"])
        context.check_hostname = False
        context.load_cert_chain(files["cert_file"], files["key_file"])
        warm = [await bare_clients(port, 3, context)]
        before = resident_kib()
        opened: list[Any] = list(await bare_clients(port, count, context))
        calls = [client.poll() for client in opened]
    else:
        driver = VdsmDriver({"tls": True, **files} if kind == "tls" else {})
        warm = [await driver_connections(driver, port, 3)]
        before = resident_kib()
        opened = await driver_connections(driver, port, count)
        calls = [connection.statistics() for connection in opened]
    for call in calls:
        await call
    del call, calls
    print((resident_kib() - before) / len(opened), len(warm), flush=True)


def resident_kib() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1024


def say(name: str, value: float, unit: str) -> None:
    print(f"{name}: {value:.4g} {unit}", flush=True)


# --- processes ---


@contextlib.contextmanager
def agent(certificates: Path) -> Iterator[tuple[int, int]]:
    """The ports of a running agent: plain, TLS."""
    argv = leashed([sys.executable, "-m", "tests.bench.bench_wire", "--agent", str(certificates)])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            plain, secure = process.stdout.readline().split()
            yield int(plain), int(secure)
        finally:
            process.kill()


def memory(kind: str, port: int, certificates: Path, count: int) -> float:
    argv = [
        sys.executable,
        "-m",
        "tests.bench.bench_wire",
        "--hold",
        kind,
        str(port),
        str(certificates),
        str(count),
    ]
    said = subprocess.run(leashed(argv), check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(said.split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="for the comparison of CPU")
    parser.add_argument("--connections", type=int, default=500, help="idle connections held for memory")
    parser.add_argument("--agent", help=argparse.SUPPRESS)
    parser.add_argument("--hold", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
    if arguments.agent:
        asyncio.run(serve(arguments.agent))
    elif arguments.hold:
        kind, port, certificates, count = arguments.hold
        asyncio.run(hold(kind, int(port), certificates, int(count)))
    else:
        measure(arguments.seconds, min(arguments.connections, 25 * int(arguments.seconds + 1)))


def measure(seconds: float, connections: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        authority = CertificateAuthority(folder)
        authority.issue("agent")
        authority.issue("engine")
        with agent(folder) as (plain, secure):
            asyncio.run(compare(plain, seconds))
            say("wire.memory.driver.plain", memory("plain", plain, folder, connections), "KiB/connection")
            say("wire.memory.driver.tls", memory("tls", secure, folder, connections), "KiB/connection")
            say(
                "wire.memory.asyncio.tls",
                memory("asyncio-tls", secure, folder, connections),
                "KiB/connection",
            )


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[2])
    main()
