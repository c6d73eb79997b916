"""One engine's fleet of N hosts: who is asked late, what the loop bears, what a host and a poll cost.

The simulator, the fleet and the bare client are processes of their own, so each figure of CPU and
memory is one process's. A poll is what a host that is up is asked in a period: statistics, then
virtual machines. The bare client asks the same of as many hosts at the same pace with nothing around
it: no deadlines, no authority, no statuses, no database. Prints `name: value unit`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import orjson

from engine.clock import boottime, utcnow
from engine.db import migrate
from engine.db.database import Database
from engine.db.tables import host, shard
from engine.hosts.fleet import HostFleet
from engine.hosts.measures import Distribution, FleetCounters
from engine.hosts.options import MonitorSettings
from engine.hosts.owned.store import OwnedHostStore
from engine.hosts.store import HostStore
from engine.plugin import EngineId, ShardId
from engine.processes import leashed
from engine.service import GC_THRESHOLDS
from engine.sharding.hashing import shard_of
from plugins.drivers.vdsm import VdsmDriver
from tests.bench.bench_wire import Always, BareClient, resident_kib, say

SHARDS = 256
EPOCH = 1
UP_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Claim:
    shard: ShardId
    epoch: int = EPOCH
    authority: Always = field(default_factory=Always)


# --- the fleet ---


async def make_rows(url: str, first_port: int, hosts: int, status: str) -> None:
    await migrate.upgrade(url)
    now = utcnow()
    ids = [str(uuid.uuid4()) for _ in range(hosts)]
    rows = [
        {
            "id": host_id,
            "name": f"host-{number}",
            "address": "127.0.0.1",
            "port": first_port + number,
            "driver": "vdsm",
            "shard": shard_of(host_id, SHARDS),
            "status": status,
            "status_since": now,
            "reported_at": now,
            "created_at": now,
        }
        for number, host_id in enumerate(ids)
    ]
    async with Database(url) as database, database.writing() as connection:
        await connection.execute(shard.insert(), [{"shard": n, "epoch": EPOCH} for n in range(SHARDS)])
        await connection.execute(host.insert(), rows)


async def watch(url: str, hosts: int, seconds: float, period_seconds: float) -> dict[str, float]:
    """Adopt all hosts as after a crash of their owner, then watch them for a while."""
    found: dict[str, float] = {}
    settings = MonitorSettings(tick_seconds=min(3.0, period_seconds / 5), statistics_seconds=period_seconds)
    async with Database(url) as database:
        store = OwnedHostStore(database)
        await store.for_shards([ShardId(0)])  # the pool's connections are not the hosts' memory
        driver = VdsmDriver({})
        async with HostFleet(
            engine=EngineId("bench"), drivers={"vdsm": driver}, store=store, settings=settings
        ) as fleet:
            before, began = resident_kib(), boottime()
            await fleet.adopt([Claim(ShardId(number)) for number in range(SHARDS)])
            found["takeover.adopt"] = boottime() - began
            await first_rounds(fleet, hosts)
            found["takeover.all_asked"] = boottime() - began
            found |= said_of("takeover", fleet.counters)
            # The second round asks for the capabilities; only then is everything in memory that stays.
            await polled(fleet, fleet.counters.polls + hosts)
            found["memory"] = (resident_kib() - before) / hosts
            renew(fleet.counters)
            polls, cpu, start = fleet.counters.polls, time.process_time(), boottime()
            await asyncio.sleep(seconds)
            polls = fleet.counters.polls - polls
            found["steady.polls"] = polls / (boottime() - start)
            found["steady.cpu_per_poll"] = (time.process_time() - cpu) / max(1, polls)
            found["steady.cpu"] = (time.process_time() - cpu) / (boottime() - start)
            found |= said_of("steady", fleet.counters)
            found["failures"] = fleet.counters.failures + fleet.counters.refusals + fleet.counters.faults
            await asyncio.sleep(settings.flush_seconds * 4)
            found["rows_waiting"] = fleet.waiting_reports
        found["rows_up"] = (await HostStore(database).count_by_status()).get("up", 0)  # type: ignore[call-overload]
    return found


async def first_rounds(fleet: HostFleet, hosts: int) -> None:
    async with asyncio.timeout(UP_SECONDS):
        while fleet.counters.lateness.count < hosts or fleet.monitors.connected < hosts:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def polled(fleet: HostFleet, polls: int) -> None:
    async with asyncio.timeout(UP_SECONDS):
        while fleet.counters.polls < polls:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def renew(counters: FleetCounters) -> None:
    counters.lateness, counters.loop_lag = Distribution(), Distribution()
    counters.poll_seconds = Distribution()


def said_of(phase: str, counters: FleetCounters) -> dict[str, float]:
    return {
        f"{phase}.late_p50": counters.lateness.quantile(0.5),
        f"{phase}.late_p99": counters.lateness.quantile(0.99),
        f"{phase}.late_max": counters.lateness.maximum,
        f"{phase}.loop_lag_p99": counters.loop_lag.quantile(0.99),
        f"{phase}.loop_lag_max": counters.loop_lag.maximum,
        f"{phase}.poll_p99": counters.poll_seconds.quantile(0.99),
    }


# --- the bare client ---


class PollingClient(BareClient):
    """Asks what the fleet asks."""

    async def ask(self, method: str) -> Any:
        request_id = str(uuid.uuid4())
        body = orjson.dumps({"jsonrpc": "2.0", "method": method, "params": {}, "id": request_id})
        headers = (
            f"SEND\ndestination:jms.topic.vdsm_requests\nreply-to:{self.queue}\n"
            "content-type:application/json\nengine-id:bench\nengine-epoch:1\n"
            f"content-length:{len(body)}\n\n"
        )
        reply = self.calls[request_id] = self.loop.create_future()
        self.transport.write(headers.encode() + body + b"\0")
        return await reply

    async def round(self) -> None:
        await self.ask("Host.getStats")
        await self.ask("Host.getAllVmStats")


async def poll_barely(first_port: int, hosts: int, seconds: float, period_seconds: float) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    clients: list[PollingClient] = []
    for number in range(hosts):
        _, client = await loop.create_connection(PollingClient, "127.0.0.1", first_port + number)
        clients.append(client)
    await asyncio.gather(*(client.round() for client in clients[:200]))
    slices = max(1, int(period_seconds / 0.05))
    under_way: set[asyncio.Task[None]] = set()
    polls, cpu, start = 0, time.process_time(), loop.time()
    for number in range(int(seconds / period_seconds * slices)):
        await asyncio.sleep(max(0.0, start + number * period_seconds / slices - loop.time()))
        for client in clients[number % slices :: slices]:
            task = asyncio.create_task(client.round())
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            polls += 1
    if under_way:
        await asyncio.wait(under_way)
    return {"cpu_per_poll": (time.process_time() - cpu) / max(1, polls), "polls": polls / seconds}


# --- processes ---


@contextmanager
def simulator(hosts: int, directory: Path) -> Iterator[int]:
    """A running simulation; yields the first of its ports."""
    argv = [sys.executable, "-m", "plugins.simulator.main", "--hosts", str(hosts), "--base-port", "0"]
    with (
        (directory / "simulator.err").open("w") as errors,
        subprocess.Popen(leashed(argv), stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise SystemExit((directory / "simulator.err").read_text())
            yield int(json.loads(line)["base_port"])
        finally:
            process.terminate()


def child(*arguments: object) -> dict[str, float]:
    argv = [sys.executable, "-m", "tests.bench.bench_monitor", *map(str, arguments)]
    said = subprocess.run(leashed(argv), check=True, stdout=subprocess.PIPE, text=True).stdout
    return cast(dict[str, float], json.loads(said.splitlines()[-1]))


def measure(hosts: int, seconds: float, period_seconds: float) -> None:
    with tempfile.TemporaryDirectory() as name, simulator(hosts, Path(name)) as port:
        url = f"sqlite+aiosqlite:///{name}/engine.db"
        asyncio.run(make_rows(url, port, hosts, "up"))
        bare = child("--bare", port, hosts, seconds, period_seconds)
        ours = child("--watch", url, hosts, seconds, period_seconds)
    say("monitor.hosts", hosts, "hosts")
    say("monitor.takeover.adopt", ours["takeover.adopt"], "s")
    say("monitor.takeover.all_asked", ours["takeover.all_asked"], "s")
    for phase, names in (("takeover", ("late_p50", "late_p99", "late_max")), ("steady", ("late_p50",))):
        for name in names:
            say(f"monitor.{phase}.{name}", ours[f"{phase}.{name}"], "s")
    say("monitor.steady.late_p99", ours["steady.late_p99"], "s")
    say("monitor.steady.late_max", ours["steady.late_max"], "s (target 3: one tick)")
    say("monitor.takeover.loop_lag_p99", ours["takeover.loop_lag_p99"] * 1e3, "ms")
    say("monitor.steady.loop_lag_p99", ours["steady.loop_lag_p99"] * 1e3, "ms (target 100)")
    say("monitor.steady.loop_lag_max", ours["steady.loop_lag_max"] * 1e3, "ms")
    say("monitor.steady.poll_p99", ours["steady.poll_p99"] * 1e3, "ms")
    say("monitor.memory", ours["memory"], "KiB/host (target 20)")
    say("monitor.steady.polls", ours["steady.polls"], "polls/s")
    say("monitor.steady.cpu", ours["steady.cpu"] * 100, "% of a core")
    say("monitor.cpu_per_poll.bare", bare["cpu_per_poll"] * 1e6, "us")
    say("monitor.cpu_per_poll.fleet", ours["steady.cpu_per_poll"] * 1e6, "us")
    say(
        "monitor.cpu_per_poll.ratio",
        ours["steady.cpu_per_poll"] / bare["cpu_per_poll"],
        "times (target 2)",
    )
    say("monitor.failures", ours["failures"], "calls (target 0)")
    say("monitor.rows_up", ours["rows_up"], "hosts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="of steady polling, each side")
    parser.add_argument("--period", type=float, default=15.0, help="seconds between two polls of a host")
    parser.add_argument("--watch", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--bare", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.set_threshold(*GC_THRESHOLDS)  # as an engine does
    if arguments.watch:
        url, hosts, seconds, period = arguments.watch
        print(json.dumps(asyncio.run(watch(url, int(hosts), float(seconds), float(period)))))
    elif arguments.bare:
        port, hosts, seconds, period = arguments.bare
        print(json.dumps(asyncio.run(poll_barely(int(port), int(hosts), float(seconds), float(period)))))
    else:
        measure(arguments.hosts, arguments.seconds, arguments.period)


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[2])
    main()
