"""Runs highly available VMs again that are down though nobody stopped them.

One in the cluster. The queue is the database: a VM that is wanted up and is down stands in it, with the
number of its tries and when the next one is due, so whoever leads next goes on where the last one was.
Invariants: each try is one command, whoever asks for it and however often (its key); where a VM is
locked, somebody sees to it, and that is no try; none is made for which there is no room, and room goes
by priority (`room.py`), also to those that wait for their next try.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from oslo_config import cfg

from engine.plugin import Conflict, Leadership, NotFound, PluginContext, Singleton, Unavailable
from plugins.singletons.room import allot, sites_of

LOG = logging.getLogger(__name__)

Row = Mapping[str, Any]

_BEATS_A_FORGETTING = 10
_COUNTED = tuple(range(1, 1001))
"""Tries that are forgotten once the VM stays up: asked for by number, so that the rest is not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often a VM is tried: `quick_tries` each `retry_seconds`, then each `slow_seconds`."""

    quick_tries: int
    retry_seconds: float
    slow_seconds: float

    def after(self, tries: int) -> timedelta:
        """How long to wait after that many tries."""
        return timedelta(seconds=self.slow_seconds if self.is_slow(tries) else self.retry_seconds)

    def is_slow(self, tries: int) -> bool:
        return tries >= self.quick_tries


def failed(vm: Row) -> bool:
    """Whether it is down and should not be. A guest that shut itself down (exit code 0) meant it."""
    wanted = vm["highly_available"] and vm["wanted"] == "up"
    return bool(wanted and vm["status"] == "down" and vm["exit_code"] != 0)


def in_order(vms: Iterable[Row]) -> list[Row]:
    """By priority, and among equals those first that have waited longest."""
    return sorted(vms, key=lambda vm: (-vm["priority"], vm["status_since"], vm["id"]))


def due(vms: Iterable[Row], now: datetime, *, pace: Pace, fresh: Mapping[str, datetime]) -> list[Row]:
    """What to run again now, in order.

    `fresh`: when a host of a cluster came up last; VMs of it that wait long need not wait longer.
    """

    def is_due(vm: Row) -> bool:
        at: datetime | None = vm["restart_at"]
        if at is None or at <= now:
            return True
        up_since, tried_at = fresh.get(vm["cluster_id"]), at - pace.after(vm["restart_tries"])
        return pace.is_slow(vm["restart_tries"]) and up_since is not None and up_since > tried_at

    return in_order(vm for vm in vms if failed(vm) and is_due(vm))


def settled(vms: Iterable[Row], now: datetime, *, settled_seconds: float) -> list[Row]:
    """VMs that have been up so long since they were restarted that their tries are forgotten."""
    latest = now - timedelta(seconds=settled_seconds)
    return [vm for vm in vms if vm["restart_tries"] and vm["status"] == "up" and vm["status_since"] <= latest]


def try_key(vm: Row) -> str:
    """The same for everybody who sees the VM as it is now, another one for each try."""
    return f"{vm['id']}/{vm['status_since'].isoformat()}/{vm['restart_tries'] + 1}"


class HaRestart(Singleton):
    """Looks each `interval_seconds`; the first try is made at once."""

    options = (
        cfg.FloatOpt(
            "interval_seconds",
            mutable=True,
            default=1.0,
            min=0.05,
            max=60.0,
            help="How often VMs that ended are looked for, in seconds.",
        ),
        cfg.FloatOpt(
            "retry_seconds",
            mutable=True,
            default=30.0,
            min=0.1,
            max=3600.0,
            help="How long after a try the next one is made, in seconds. The first one is made at once.",
        ),
        cfg.IntOpt(
            "quick_tries",
            mutable=True,
            default=10,
            min=1,
            max=1000,
            help="After so many tries of one VM the pause between them is `slow_seconds`.",
        ),
        cfg.FloatOpt(
            "slow_seconds",
            mutable=True,
            default=1800.0,
            min=0.1,
            max=86400.0,
            help="The pause between tries of a VM that could not be run `quick_tries` times, in seconds.",
        ),
        cfg.FloatOpt(
            "settled_seconds",
            mutable=True,
            default=60.0,
            min=0.0,
            max=86400.0,
            help="How long a VM has to be up before its tries are forgotten, in seconds. One that ends sooner"
            " goes on counting, so that a guest that always crashes is not started without a pause.",
        ),
        cfg.IntOpt(
            "at_once",
            mutable=True,
            default=100,
            min=1,
            max=10_000,
            help="How many VMs are run again at each look; those of the highest priority come first.",
        ),
    )

    @property
    def _pace(self) -> Pace:
        options = self.context.options
        return Pace(
            quick_tries=options["quick_tries"],
            retry_seconds=options["retry_seconds"],
            slow_seconds=options["slow_seconds"],
        )

    def __init__(self, context: PluginContext) -> None:
        super().__init__(context)
        self._told: set[str] = set()
        """The keys of tries that wait for room, of which that was told."""

    async def run(self, leadership: Leadership) -> None:
        self._told.clear()
        async for beat in leadership.every(lambda: self.context.options["interval_seconds"]):
            try:
                await self._look(leadership)
                if beat % _BEATS_A_FORGETTING == 0:
                    await self._forget(leadership)
            except Unavailable as error:
                LOG.warning("VMs are not restarted at this beat, the next one tries again: %s", error)

    async def _look(self, leadership: Leadership) -> None:
        reader, pace = self.context.ledger.reader, self._pace
        down = await reader.find("vm", where={"highly_available": True, "wanted": "up", "status": "down"})
        fresh: dict[str, datetime] = {}
        if any(pace.is_slow(vm["restart_tries"]) for vm in down):
            for host in await reader.find("host", where={"status": "up"}):
                since = host["status_since"]
                fresh[host["cluster_id"]] = max(since, fresh.get(host["cluster_id"], since))
        wanted = due(down, self.context.now(), pace=pace, fresh=fresh)
        if not wanted:
            return
        without = await self._without_room(down, wanted)
        for vm in [vm for vm in wanted if vm["id"] not in without][: self.context.options["at_once"]]:
            await self._try(vm, leadership)
        await self._tell([vm for vm in wanted if vm["id"] in without], without, leadership)

    async def _without_room(self, down: Iterable[Row], wanted: Sequence[Row]) -> Mapping[str, str]:
        """For whom of `wanted` there is no room, and why. Room is kept also for those that are between two
        quick tries; after many that failed, not even those of high priority keep others waiting."""
        now = {vm["id"] for vm in wanted}
        keep = [vm for vm in down if failed(vm) and not self._pace.is_slow(vm["restart_tries"])]
        asking = in_order([*wanted, *(vm for vm in keep if vm["id"] not in now)])
        sites = await sites_of(self.context.ledger.reader, sorted({vm["cluster_id"] for vm in asking}))
        return allot(asking, sites)

    async def _tell(self, waiting: Sequence[Row], without: Mapping[str, str], leadership: Leadership) -> None:
        """Say once of each try that waits for room, why."""
        untold = [vm for vm in waiting if try_key(vm) not in self._told]
        self._told = {try_key(vm) for vm in waiting}
        if not untold:
            return
        async with self.context.ledger.writing(leadership) as rows:
            for vm in untold:
                message = f"VM {vm['name']} waits to be run again: {without[vm['id']]}"
                await rows.event("vm_restart_waits", message, data={"vm_id": vm["id"]})

    async def _try(self, vm: Row, leadership: Leadership) -> None:
        leadership.check()
        try:
            command = await self.context.commands.submit("run_vm", {"vm_id": vm["id"]}, key=try_key(vm))
        except (Conflict, NotFound) as refused:
            LOG.debug("vm=%s: not run again now: %s", vm["id"], refused)
            return
        await self._note(vm, command, leadership)

    async def _note(self, vm: Row, command: str, leadership: Leadership) -> None:
        """Count the try; where another leader has counted it already, it is told of once."""
        pace, tries = self._pace, vm["restart_tries"] + 1
        pause = pace.after(tries)
        values = {"restart_tries": tries, "restart_at": self.context.now() + pause}
        async with self.context.ledger.writing(leadership) as rows:
            if not await rows.update("vm", vm["id"], values, where={"restart_tries": tries - 1}):
                return
            why = vm["status_reason"] or vm["exit_message"] or "it ended"
            message = f"VM {vm['name']} is run again, try {tries}: {why}"
            data = {"vm_id": vm["id"], "try": tries, "command": command, "token": leadership.token}
            await rows.event("vm_restart", message, data=data)
            if tries == pace.quick_tries:
                slow = f"VM {vm['name']} did not stay up in {tries} tries; from now on it is tried each"
                message = f"{slow} {pace.slow_seconds:.0f} s"
                await rows.event("vm_restart_slow", message, data={"vm_id": vm["id"]})

    async def _forget(self, leadership: Leadership) -> None:
        counted = {"highly_available": True, "status": "up", "restart_tries": _COUNTED}
        up = await self.context.ledger.reader.find("vm", where=counted)
        seconds = self.context.options["settled_seconds"]
        done = settled(up, self.context.now(), settled_seconds=seconds)
        if not done:
            return
        async with self.context.ledger.writing(leadership) as rows:
            for vm in done:
                cleared = {"restart_tries": 0, "restart_at": None}
                await rows.update("vm", vm["id"], cleared, where={"status": "up"})
