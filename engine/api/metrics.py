"""Prometheus metrics: requests as they happen, the cluster as it stands at the scrape.

Under gunicorn a scrape reaches one worker of several. Request counts and latencies are therefore
kept where all workers add to them (prometheus_client's multiprocess files, on when
PROMETHEUS_MULTIPROC_DIR is set, as `engine.api.gunicorn` does); the gauges of the cluster are made
at the scrape from the snapshot and the database, so that any worker gives the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from falcon.asgi import Response
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from engine.api.http import EngineRequest
from engine.api.snapshot import ClusterSnapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Metrics:
    """The counters of this process; also the middleware that keeps them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "engine_api_requests",
            "Requests answered, by route and status.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "engine_api_request_seconds",
            "Time to the answer, in seconds.",
            ("route",),
            buckets=BUCKETS_SECONDS,
            registry=self._registry,
        )
        # `labels()` takes a lock and builds tuples; there are few routes and statuses.
        self._counter = lru_cache(maxsize=1024)(self._requests.labels)
        self._histogram = lru_cache(maxsize=128)(self._seconds.labels)

    async def process_response(
        self, request: EngineRequest, response: Response, _resource: object, _succeeded: bool
    ) -> None:
        response.set_header("X-Request-Id", request.request_id)
        route = request.uri_template or "none"
        self._counter(request.method, route, response.status_code).inc()
        self._histogram(route).observe(time.perf_counter() - request.started)

    def render(self, gauges: Iterable[Metric]) -> bytes:
        """The exposition: the requests of all workers, and `gauges`."""
        requests = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            requests = CollectorRegistry()
            MultiProcessCollector(requests)  # type: ignore[no-untyped-call]
        return generate_latest(requests) + generate_latest(_Fixed(gauges))


class _Fixed(CollectorRegistry):
    """A registry of what was measured already."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        super().__init__()
        self._metrics = tuple(metrics)

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)


def cluster_gauges(
    snapshot: ClusterSnapshot | None, *, connected: bool, hosts: Mapping[str, int] | None
) -> Iterator[Metric]:
    """The cluster in figures; what is not known (None) is left out, rather than told as 0."""
    yield GaugeMetricFamily("engine_zookeeper_connected", "1 while the snapshot is current.", int(connected))
    yield GaugeMetricFamily("engine_database_up", "1 while the database answers.", int(hosts is not None))
    if snapshot is not None:
        members = GaugeMetricFamily("engine_members", "Engines in the cluster.", labels=("state",))
        for state in ("up", "draining"):
            members.add_metric((state,), sum(member.state == state for member in snapshot.members))
        yield members
        owned = snapshot.owned()
        shards = GaugeMetricFamily("engine_shards_owned", "Shards that an engine owns.", labels=("engine",))
        for engine in sorted({*owned, *(member.engine for member in snapshot.members)}):
            shards.add_metric((engine,), owned[engine])
        yield shards
        unowned = len(snapshot.shards) - owned.total()
        yield GaugeMetricFamily("engine_shards_unowned", "Shards that nobody owns.", unowned)
    if hosts is not None:
        by_status = GaugeMetricFamily("engine_hosts", "Hosts, by status.", labels=("status",))
        for status, count in sorted(hosts.items()):
            by_status.add_metric((status,), count)
        yield by_status
