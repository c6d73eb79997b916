"""A steady cluster of three engines: what it asks of ZooKeeper, of its loops and of memory.

The raw floor of the writes is the engines' heartbeats, a transaction each quarter of the session
timeout: polls and hosts should add none. Lateness, lag and memory are the engines' own metrics, the
memory of a host what an engine with hosts holds over one without. Prints `name: value unit`.
"""

from __future__ import annotations

import argparse
import asyncio
import configparser
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from engine.clock import boottime
from engine.local_cluster.cluster import LocalCluster
from engine.local_cluster.layout import Layout
from engine.local_cluster.state import StateDirectory

READY_SECONDS = 300.0
HEARTBEATS_A_SESSION = 4

Samples = Mapping[tuple[str, str], float]
"""By name of the sample and, for buckets, their upper bound."""


def say(name: str, value: float, unit: str, note: str = "") -> None:
    print(f"{name}: {value:.2f} {unit}{'  # ' + note if note else ''}", flush=True)


class Steady:
    """A running cluster whose engines tell their metrics."""

    def __init__(self, cluster: LocalCluster, client: httpx.AsyncClient) -> None:
        self.cluster = cluster
        self.client = client

    def transactions(self) -> int:
        """ZooKeeper's last transaction id: each committed write raises it by one."""
        assert self.cluster.zookeeper is not None
        for line in self.cluster.zookeeper.ask("srvr").splitlines():
            if line.startswith("Zxid: "):
                return int(line.split()[1], 16)
        raise RuntimeError("ZooKeeper told no transaction id")

    async def scrape(self) -> list[Samples]:
        """The metrics of each engine."""
        found: list[Samples] = []
        for name in self.cluster.engines:
            parser = configparser.ConfigParser(interpolation=None)
            parser.read(self.cluster.directory.etc / f"{name}.conf")
            port = parser["engine"]["metrics_port"]
            text = (await self.client.get(f"http://127.0.0.1:{port}/metrics")).raise_for_status().text
            found.append(
                {
                    (sample.name, sample.labels.get("le", "")): sample.value
                    for family in text_string_to_metric_families(text)
                    for sample in family.samples
                }
            )
        return found


def quantile(before: list[Samples], after: list[Samples], name: str, share: float) -> float:
    """The bound, in seconds, that `share` of what was observed between the two scrapes did not pass."""
    totals: dict[float, float] = {}
    for early, late in zip(before, after, strict=True):
        for (sample, le), count in late.items():
            if sample == f"{name}_bucket":
                seen = count - early.get((sample, le), 0.0)
                totals[float(le)] = totals.get(float(le), 0.0) + seen
    wanted = share * totals[float("inf")]
    return min(bound for bound, total in totals.items() if total >= wanted)


def growth(before: list[Samples], after: list[Samples], name: str) -> float:
    return sum(late[name, ""] - early[name, ""] for early, late in zip(before, after, strict=True))


async def measure(layout: Layout, seconds: float) -> float:
    """Prints the figures of a cluster; returns the mean resident memory of its engines, in bytes."""
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as path:
        directory = StateDirectory(Path(path))
        async with (
            LocalCluster(layout, directory, progress=lambda _: None) as cluster,
            httpx.AsyncClient(timeout=60) as client,
        ):
            await cluster.ready(seconds=READY_SECONDS)
            steady = Steady(cluster, client)
            await asyncio.sleep(min(seconds, layout.statistics_seconds))  # what the start left behind
            before, written, at = await steady.scrape(), steady.transactions(), boottime()
            await asyncio.sleep(seconds)
            after, took = await steady.scrape(), boottime() - at
            writes = (steady.transactions() - written) / took
            memory = [samples["process_resident_memory_bytes", ""] for samples in after]
            if layout.hosts:
                report(layout, before, after, took, writes)
            return sum(memory) / len(memory)


def report(layout: Layout, before: list[Samples], after: list[Samples], took: float, writes: float) -> None:
    name = f"steady.{layout.hosts}_hosts{'_tls' if layout.tls else ''}"
    floor = layout.engines * HEARTBEATS_A_SESSION / layout.session_seconds
    say(f"{name}.zookeeper_writes", writes, "1/s", f"heartbeats alone: {floor:.2f}")
    say(f"{name}.polls", growth(before, after, "engine_hosts_polls_total") / took, "1/s")
    for what, metric in (
        ("lateness", "engine_hosts_lateness_seconds"),
        ("loop_lag", "engine_hosts_loop_lag_seconds"),
    ):
        for share in (0.5, 0.99, 1.0):
            label = "max" if share == 1.0 else f"p{share * 100:.0f}"
            say(f"{name}.{what}.{label}", quantile(before, after, metric, share) * 1000, "ms")
    cpu = growth(before, after, "process_cpu_seconds_total") / took
    say(f"{name}.engines_cpu", cpu * 100, "%", f"of one core, {layout.engines} engines together")


async def run(arguments: argparse.Namespace) -> None:
    def layout(hosts: int) -> Layout:
        return Layout(
            engines=arguments.engines,
            hosts=hosts,
            api_port=0,
            zk_port=0,
            host_port=0,
            api_workers=1,
            metrics=True,
            tls=arguments.tls,
        )

    empty = await measure(layout(0), 1.0)
    full = await measure(layout(arguments.hosts), arguments.seconds)
    a_host = (full - empty) * arguments.engines / arguments.hosts / 1024
    kind = "_tls" if arguments.tls else ""
    say(f"steady.{arguments.hosts}_hosts{kind}.memory_a_host", a_host, "KiB", "target=20 on plain TCP")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--engines", type=int, default=3)
    parser.add_argument("--tls", action="store_true", help="mutual TLS between engines and hosts")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long is measured")
    asyncio.run(run(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
