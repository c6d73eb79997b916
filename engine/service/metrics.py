"""An engine's own Prometheus metrics, served from a thread of prometheus_client on a port of its own.

The numbers live in the loop's thread; a scrape reads them from another. Each is a plain int or
float, so it is read whole; a histogram may be one observation ahead of its count.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from engine.config.live import LiveConfiguration
from engine.errors import InvalidInput
from engine.execution.server import CallServer
from engine.hosts.fleet import HostFleet
from engine.hosts.measures import BOUNDS_SECONDS, Distribution

_COUNTERS = {
    "polls": "Rounds of questions that hosts were asked.",
    "connects": "Connections made to hosts.",
    "failures": "Calls to hosts that failed.",
    "refusals": "Calls that hosts answered with an error.",
    "faults": "Errors of drivers and of the engine itself; each is in the log.",
    "transitions": "Changes of a host's status.",
    "events": "Events that hosts sent.",
    "reports_written": "Reports written to the database.",
    "reports_dropped": "Reports dropped because a later owner was met.",
    "flush_failures": "Writes to the database that failed and were tried again.",
}
_DISTRIBUTIONS = {
    "lateness": "From when a host was due to when it was asked.",
    "poll_seconds": "How long a round of questions took.",
    "loop_lag": "How much later than asked for the event loop woke up.",
}


class Measured(Protocol):
    """What is measured: the service."""

    @property
    def fleet(self) -> HostFleet | None: ...

    @property
    def shared(self) -> LiveConfiguration | None: ...

    @property
    def shards_owned(self) -> int: ...

    @property
    def calls(self) -> CallServer: ...

    @property
    def map_entries(self) -> Mapping[str, int]: ...

    def authority_seconds(self) -> float: ...


class EngineCollector(Collector):
    """Reads the service at each scrape."""

    def __init__(self, measured: Measured) -> None:
        self._measured = measured

    def collect(self) -> Iterable[Metric]:
        measured = self._measured
        yield GaugeMetricFamily("engine_shards_owned", "Shards owned now.", measured.shards_owned)
        yield GaugeMetricFamily(
            "engine_authority_seconds",
            "Seconds for which this engine may act if ZooKeeper answers nothing more.",
            measured.authority_seconds(),
        )
        yield CounterMetricFamily(
            "engine_calls_begun", "Calls of tasks that this engine began.", measured.calls.begun
        )
        yield CounterMetricFamily(
            "engine_calls_refused", "Calls that it refused: not its own, or too many.", measured.calls.refused
        )
        entries = GaugeMetricFamily(
            "engine_map_entries", "Entries of the clustered maps that are open here.", labels=["map"]
        )
        for name, number in measured.map_entries.items():
            entries.add_metric([name], number)
        yield entries
        if (shared := measured.shared) is not None:
            yield GaugeMetricFamily(
                "engine_configuration_refused",
                "Options that the cluster sets to values that this engine refuses.",
                len(shared.status.refused),
            )
            yield GaugeMetricFamily(
                "engine_configuration_pending",
                "Options whose new values wait for this engine to start again.",
                len(shared.status.pending),
            )
        if (fleet := measured.fleet) is None:
            return
        yield GaugeMetricFamily("engine_hosts", "Hosts monitored by this engine.", len(fleet.monitors))
        yield GaugeMetricFamily("engine_hosts_connected", "Of these, connected.", fleet.monitors.connected)
        for name, meaning in _COUNTERS.items():
            yield CounterMetricFamily(f"engine_hosts_{name}", meaning, getattr(fleet.counters, name))
        for name, meaning in _DISTRIBUTIONS.items():
            unit = "" if name.endswith("_seconds") else "_seconds"
            yield _histogram(f"engine_hosts_{name}{unit}", meaning, getattr(fleet.counters, name))


def _histogram(name: str, meaning: str, seen: Distribution) -> HistogramMetricFamily:
    buckets, below = [], 0
    for bound, number in zip([*map(str, BOUNDS_SECONDS), "+Inf"], seen.buckets, strict=True):
        below += number
        buckets.append((bound, below))
    return HistogramMetricFamily(name, meaning, buckets=buckets, sum_value=seen.total)


@contextlib.contextmanager
def serving_metrics(measured: Measured, address: str, port: int | None) -> Iterator[None]:
    """Serve `/metrics` on `address`:`port` until left; no port, no server. Raises `InvalidInput`."""
    if port is None:
        yield
        return
    registry = CollectorRegistry()
    registry.register(EngineCollector(measured))
    ProcessCollector(registry=registry)
    try:
        server, thread = start_http_server(port, addr=address, registry=registry)
    except OSError as error:
        raise InvalidInput(
            f"metrics cannot be served on {address}:{port}: {error.strerror};"
            " change [engine] metrics_port or metrics_address"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
