"""Tries hosts again that could not be used: their fault may be mended by now.

One in the cluster. A host is activated as by a person, by the command `activate_host`, so whoever has
the host locked goes first, and it shows in the host's events. Invariant: one try for each period that
the host has been unusable, whoever leads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from oslo_config import cfg

from engine.plugin import Conflict, HostId, Leadership, NotFound, Singleton, Unavailable

LOG = logging.getLogger(__name__)

Row = Mapping[str, Any]

RECOVERABLE = ("non_operational", "install_failed")


def periods(host: Row, now: datetime, *, after_seconds: float) -> int:
    """For how many whole periods it has been as it is now."""
    return int((now - host["status_since"]).total_seconds() // after_seconds)


def due(hosts: Iterable[Row], now: datetime, *, after_seconds: Callable[[Row], float]) -> list[Row]:
    """Hosts to try now: unusable for a period at least, and nobody wants anything else of them."""
    return [
        host
        for host in hosts
        if host["status"] in RECOVERABLE
        and host["asked_count"] <= host["heeded_count"]
        and periods(host, now, after_seconds=after_seconds(host)) >= 1
    ]


class AutoRecovery(Singleton):
    """Looks each `interval_seconds` for hosts that are due."""

    options = (
        cfg.FloatOpt(
            "interval_seconds",
            mutable=True,
            default=5.0,
            min=0.05,
            max=3600.0,
            help="How often unusable hosts are looked for, in seconds.",
        ),
        cfg.FloatOpt(
            "after_seconds",
            mutable=True,
            default=300.0,
            min=0.1,
            max=86400.0,
            help="A host that is non_operational or install_failed is tried again after so many seconds, and"
            " each time that so many more have passed.",
        ),
    )

    per_cluster = ("after_seconds",)

    async def run(self, leadership: Leadership) -> None:
        tried: dict[HostId, str] = {}
        async for _ in leadership.every(lambda: self.context.options["interval_seconds"]):
            try:
                await self._look(tried, leadership)
            except Unavailable as error:
                LOG.warning("hosts are not tried again at this beat, the next one does: %s", error)

    async def _look(self, tried: dict[HostId, str], leadership: Leadership) -> None:
        now = self.context.now()
        unusable = await self.context.ledger.reader.find("host", where={"status": RECOVERABLE})
        for host_id in tried.keys() - {host["id"] for host in unusable}:
            del tried[host_id]
        for host in due(unusable, now, after_seconds=self._after_seconds):
            number = periods(host, now, after_seconds=self._after_seconds(host))
            key = f"{host['id']}/{host['status_since'].isoformat()}/{number}"
            if tried.get(host["id"]) != key and await self._try(host, key, leadership):
                tried[host["id"]] = key

    def _after_seconds(self, host: Row) -> float:
        seconds: float = self.context.options_of(host["cluster_id"])["after_seconds"]
        return seconds

    async def _try(self, host: Row, key: str, leadership: Leadership) -> bool:
        leadership.check()
        try:
            await self.context.commands.submit("activate_host", {"host_id": host["id"]}, key=key)
        except (Conflict, NotFound) as refused:  # somebody sees to it
            LOG.info("host=%s: not tried again now: %s", host["id"], refused)
            return False
        async with self.context.ledger.writing(leadership) as rows:
            why = host["status_reason"] or "no reason is known"
            message = f"host {host['name']} is tried again: it was {host['status']}: {why}"
            await rows.event("host_recovery", message, host_id=HostId(host["id"]))
        return True
