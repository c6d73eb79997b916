"""Moves running VMs for the sake of load, where a cluster of hosts asks for it (`balancing`).

One in the cluster. `load.plan` decides; what it decides is asked for as commands, `migrate_vm`, a few at a
time, and nothing more while any VM of that cluster is on its way. A VM that somebody has locked, or that
does not fit any more by the time, stays where it is: the next look plans anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from oslo_config import cfg

from engine.plugin import Conflict, HostId, Leadership, NotFound, Singleton, Unavailable, VmId
from plugins.commands.placement import HOST_COLUMNS
from plugins.singletons.load import EVEN, POWER_SAVING, Limits, Move, plan

LOG = logging.getLogger(__name__)

Row = Mapping[str, Any]

_VM_COLUMNS = (
    "id",
    "name",
    "cluster_id",
    "memory_bytes",
    "cpus",
    "pinned_host_id",
    "affinity_group",
    "affinity",
    "host_id",
    "destination_id",
    "status",
    "status_since",
    "operation_id",
)


@dataclass(slots=True)
class _Term:
    """What one leader knows: the cluster of each move under way, by its command, and until when VMs rest."""

    moving: dict[str, str] = field(default_factory=dict)
    resting: dict[VmId, datetime] = field(default_factory=dict)


class Balancing(Singleton):
    """Looks at each cluster that is to be balanced each `interval_seconds`."""

    options = (
        cfg.FloatOpt(
            "interval_seconds",
            mutable=True,
            default=60.0,
            min=0.05,
            max=86400.0,
            help="How often the load of hosts is looked at, in seconds.",
        ),
        cfg.IntOpt(
            "at_once",
            mutable=True,
            default=2,
            min=1,
            max=100,
            help="How many VMs of one cluster are moved at a time; a migration costs network and processors.",
        ),
        cfg.FloatOpt(
            "gap_percent",
            mutable=True,
            default=10.0,
            min=1.0,
            max=100.0,
            help="`even`: a VM is moved where the host that receives it is left with a load that is lower by"
            " at least this than what the other one had, in percent of a host. More means fewer moves.",
        ),
        cfg.FloatOpt(
            "low_percent",
            mutable=True,
            default=20.0,
            min=0.0,
            max=100.0,
            help="`power_saving`: a host with at most this load is emptied where others can take its VMs.",
        ),
        cfg.FloatOpt(
            "high_percent",
            mutable=True,
            default=80.0,
            min=1.0,
            max=100.0,
            help="`power_saving`: no host is filled beyond this load, and one that is gives VMs away.",
        ),
        cfg.FloatOpt(
            "rest_seconds",
            mutable=True,
            default=600.0,
            min=0.0,
            max=86400.0,
            help="How long a VM that was locked or could not be moved is left where it is, in seconds.",
        ),
    )

    per_cluster = ("at_once", "gap_percent", "low_percent", "high_percent", "rest_seconds")

    async def run(self, leadership: Leadership) -> None:
        term = _Term()
        async for _ in leadership.every(lambda: self.context.options["interval_seconds"]):
            try:
                await self._look(term, leadership)
            except Unavailable as error:
                LOG.warning("hosts are not balanced at this beat, the next one tries again: %s", error)

    async def _look(self, term: _Term, leadership: Leadership) -> None:
        reader = self.context.ledger.reader
        await self._learn(term)
        for cluster in await reader.find("host_cluster", where={"balancing": [EVEN, POWER_SAVING]}):
            if cluster["id"] in term.moving.values():
                continue
            options = self.context.options_of(cluster["id"])
            within = {"cluster_id": cluster["id"]}
            hosts = await reader.find("host", where=within, columns=HOST_COLUMNS)
            vms = await reader.find("vm", where=within, columns=_VM_COLUMNS)
            moves = await asyncio.to_thread(
                plan,
                cluster["balancing"],
                cluster,
                hosts,
                vms,
                limits=Limits(
                    gap=options["gap_percent"], low=options["low_percent"], high=options["high_percent"]
                ),
                at_most=options["at_once"],
                fixed=frozenset(term.resting),
            )
            for move in moves:
                command = await self._move(move, cluster, hosts, vms, leadership)
                if command is None:
                    term.resting[move.vm_id] = self._rested(cluster["id"])
                else:
                    term.moving[command] = cluster["id"]

    async def _learn(self, term: _Term) -> None:
        """What became of the moves that were asked for; a VM that could not be moved rests."""
        now = self.context.now()
        for vm_id in [vm_id for vm_id, until in term.resting.items() if until <= now]:
            del term.resting[vm_id]
        for command in list(term.moving):
            outcome = await self.context.commands.outcome(command)
            if outcome is None:
                continue
            cluster = term.moving.pop(command)
            if not outcome.succeeded:
                term.resting[VmId(outcome.arguments["vm_id"])] = self._rested(cluster)

    def _rested(self, cluster: str) -> datetime:
        return self.context.now() + timedelta(seconds=self.context.options_of(cluster)["rest_seconds"])

    async def _move(
        self, move: Move, cluster: Row, hosts: Sequence[Row], vms: Sequence[Row], leadership: Leadership
    ) -> str | None:
        """Ask for it, and tell; the command, or None where it is refused."""
        vm = next(each for each in vms if each["id"] == move.vm_id)
        names = {each["id"]: each["name"] for each in hosts}
        asked = {"vm_id": move.vm_id, "host_id": move.destination}
        key = f"{move.vm_id}/{vm['status_since'].isoformat()}/{move.destination}"
        leadership.check()
        try:
            command = await self.context.commands.submit("migrate_vm", asked, key=key)
        except (Conflict, NotFound) as refused:
            LOG.info("vm=%s: not moved: %s", move.vm_id, refused)
            return None
        async with self.context.ledger.writing(leadership) as rows:
            message = (
                f"VM {vm['name']} is moved from host {names[move.source]} (load {move.source_load:.0f} %) to"
                f" {names[move.destination]} ({move.destination_load:.0f} %): cluster {cluster['name']} is"
                f" balanced, {cluster['balancing']}"
            )
            data = {"vm_id": move.vm_id, "command": command, "to": move.destination}
            await rows.event("vm_balanced", message, host_id=HostId(move.source), data=data)
        return command
