"""How soon a dead engine's hosts are asked by another: real processes, judged by the simulator's log.

    engine      SIGKILL of one engine of three; its supervisor closes its session
    supervisor  SIGKILL of an engine and its supervisor; ZooKeeper's session timeout decides
    many        SIGKILL of one engine of three, with --many hosts on plain TCP

From the kill to the first request that bears a later epoch, at the last host that moved. The raw
floor in the same run: ZooKeeper alone, from a kill to a standby's node in its place. Prints
`name: value unit`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import sys
import tempfile
from pathlib import Path

import httpx

from engine.clock import boottime
from engine.coordination.session import SessionSettings
from engine.local_cluster.cluster import LocalCluster
from engine.local_cluster.demo import SETTLE_SECONDS
from engine.local_cluster.layout import TICK_SECONDS, Layout
from engine.local_cluster.observer import Observer
from engine.local_cluster.state import StateDirectory
from plugins.simulator.log import Request, read_log
from plugins.simulator.witness import first_requests_after

READY_SECONDS = 300.0


def say(name: str, value: float, unit: str, note: str = "") -> None:
    print(f"{name}: {value:.1f} {unit}{'  # ' + note if note else ''}", flush=True)


class Trial:
    """One running cluster on which engines are killed, one after another."""

    def __init__(self, cluster: LocalCluster, observer: Observer) -> None:
        self.cluster = cluster
        self.observer = observer

    async def kill(self, engine: str, *, with_supervisor: bool) -> dict[int, float]:
        """Seconds from the kill to the first request of the heir, by the port of each host that moved."""
        shards = await self._shards_of_hosts()
        before = self.observer.owners()
        seen = self.observer.members()[engine]
        mine = [port for port, shard in shards.items() if before[shard] == engine]
        child = self.cluster.engines[engine]
        if with_supervisor:
            child.send(signal.SIGSTOP)  # it must not restart or close anything meanwhile
        at = boottime()
        os.kill(seen.pid, signal.SIGKILL)
        if with_supervisor:
            await child.kill()
            others = set(self.cluster.engines) - {engine}
            await self.observer.settled(others, self.cluster.layout.shards, seconds=SETTLE_SECONDS)
        else:
            await self.observer.replaced(engine, seen, seconds=SETTLE_SECONDS)
        found = await self._first_requests(mine, at)
        if with_supervisor:
            await self.cluster.start_engine(engine)
        await self.observer.settled(
            set(self.cluster.engines), self.cluster.layout.shards, seconds=SETTLE_SECONDS
        )
        return found

    async def _first_requests(self, ports: list[int], at: float) -> dict[int, float]:
        """The log is read until every host has been asked by somebody else than before."""
        log = self.cluster.directory.simulator / "log"
        deadline = boottime() + 60
        while True:
            await asyncio.sleep(0.5)
            entries = await asyncio.to_thread(lambda: list(read_log(log)))
            last: dict[int, int] = {}
            for entry in entries:
                epoch = getattr(entry, "epoch", None)
                if epoch is not None and entry.t <= at:
                    last[entry.host] = max(epoch, last.get(entry.host, 0))
            found: dict[int, Request] = {}
            for epoch in set(last.values()):
                those = [port for port in ports if last.get(port) == epoch]
                found |= first_requests_after(entries, those, at, newer_than=epoch)
            if len(found) == len(ports):
                return {port: request.t - at for port, request in found.items()}
            if boottime() > deadline:
                raise TimeoutError(f"{len(ports) - len(found)} of {len(ports)} hosts were not asked again")

    async def _shards_of_hosts(self) -> dict[int, int]:
        found: dict[int, int] = {}
        async with httpx.AsyncClient(base_url=self.cluster.api_url, timeout=60) as client:
            url: str | None = "/v1/hosts?limit=1000"
            while url:
                answer = (await client.get(url)).raise_for_status().json()
                found |= {host["port"]: host["shard"] for host in answer["hosts"]}
                url = answer["next"]
        return found


async def trial(layout: Layout, *, kills: int, with_supervisor: bool) -> list[dict[int, float]]:
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as path:
        directory = StateDirectory(Path(path))
        async with LocalCluster(layout, directory, progress=lambda _: None) as cluster:
            await cluster.ready(seconds=READY_SECONDS)
            assert cluster.zookeeper is not None
            settings = SessionSettings(hosts=cluster.zookeeper.hosts, tick_seconds=TICK_SECONDS)
            async with Observer.watching(settings) as observer:
                await observer.settled(set(cluster.engines), layout.shards, seconds=SETTLE_SECONDS)
                killed = Trial(cluster, observer)
                return [
                    await killed.kill(
                        f"engine-{1 + number % layout.engines}", with_supervisor=with_supervisor
                    )
                    for number in range(kills)
                ]


def report(name: str, runs: list[dict[int, float]], limit_ms: float) -> None:
    last = [max(run.values(), default=0.0) * 1000 for run in runs]
    middle = [statistics.median(run.values()) * 1000 for run in runs if run]
    note = f"kills={len(runs)} worst={max(last):.0f} target={limit_ms:.0f}"
    say(f"failover.{name}.last_host", statistics.median(last), "ms", note)
    say(f"failover.{name}.median_host", statistics.median(middle), "ms")
    say(f"failover.{name}.hosts_moved", statistics.mean(len(run) for run in runs), "hosts")


async def run(arguments: argparse.Namespace) -> None:
    small = Layout(
        hosts=arguments.hosts, tls=not arguments.plain, api_port=0, zk_port=0, host_port=0, api_workers=1
    )
    only = arguments.only.split(",")
    if "engine" in only:
        name = f"{arguments.hosts}_hosts_{'plain' if arguments.plain else 'tls'}"
        report(name, await trial(small, kills=arguments.kills, with_supervisor=False), 250)
    if "supervisor" in only:
        runs = await trial(small, kills=arguments.kills, with_supervisor=True)
        report("supervisor_killed_too", runs, small.session_seconds * 1000 + 500)
    if "many" in only:
        many = Layout(hosts=arguments.many, api_port=0, zk_port=0, host_port=0, api_workers=1)
        report(f"{arguments.many}_hosts_plain", await trial(many, kills=3, with_supervisor=False), 3000)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="engine,supervisor,many", help="comma list of parts")
    parser.add_argument("--hosts", type=int, default=24)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--many", type=int, default=10_000)
    parser.add_argument("--plain", action="store_true", help="the small fleet without TLS")
    asyncio.run(run(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
