"""Sees to hosts that do not answer: confirms it, has them fenced, and says why where it does not.

One in the cluster. It decides and asks; the fencing itself is the command `treat_host`, which outlives
this engine and whose lock makes it the only one for its host; where `soft_fencing` is on, the first
command of an incident is `restart_agent` instead, which proves nothing, so that all is asked again before
the power is cut. Invariants: nothing is fenced unless every engine that answers says that it cannot reach
the host either, and where there are several, two of them at least; and nothing while the engines
themselves are new, or most of a cluster's hosts are broken.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from oslo_config import cfg

from engine.plugin import Answer, Conflict, EngineId, HostId, Leadership, NotFound, Singleton, Unavailable
from plugins.commands.treatment import against

LOG = logging.getLogger(__name__)

SOFT = "restart_agent"
_RULES = {name: name for name in ("broken_percent", "again_seconds")}

Row = Mapping[str, Any]


def too_new(members: Mapping[EngineId, datetime], now: datetime, *, quiet_seconds: float) -> str | None:
    """Why nothing is fenced yet: no engine has been here for long; None where one has."""
    if not members:
        return "it is not known which engines are here"
    if now >= min(members.values()) + timedelta(seconds=quiet_seconds):
        return None
    return f"the engines have been here for less than {quiet_seconds:.0f} s"


def doubt(members: Sequence[EngineId], answers: Sequence[Answer]) -> str | None:
    """What speaks against the host's being out of reach; None where that is confirmed.

    One engine alone confirms by itself; of several, two have to: one may be cut off.
    """
    for answer in answers:
        if answer.error is None and answer.result.lives:
            return f"{answer.engine} reaches it"
    without = {answer.engine for answer in answers if answer.error is None}
    if len(without) >= min(2, len(members)) and without:
        return None
    silent = sorted(set(members) - without)
    return f"no second engine could say that it cannot reach it either ({', '.join(silent)} did not answer)"


@dataclass(slots=True)
class Treatment:
    """What was asked for in one incident of one host. `number` counts the commands of the incident."""

    since: datetime
    number: int = 0
    command: str | None = None
    next_at: datetime | None = None

    def key(self, host_id: str) -> str:
        """The same for whoever leads, so that none asks for what another has asked for."""
        return f"{host_id}/{self.since.isoformat()}/{self.number}"


class HostTreatment(Singleton):
    """Looks each `interval_seconds` for hosts that are non_responsive."""

    options = (
        cfg.FloatOpt(
            "interval_seconds",
            mutable=True,
            default=2.0,
            min=0.05,
            max=300.0,
            help="How often hosts that do not answer are looked for, in seconds. Their monitors have been"
            " patient with them before ([hosts] grace_seconds).",
        ),
        cfg.FloatOpt(
            "quiet_seconds",
            mutable=True,
            default=300.0,
            min=0.0,
            max=86400.0,
            help="How long at least one engine has to be in the cluster before any host is fenced, in"
            " seconds: after a power cut the engines may be up before the hosts.",
        ),
        cfg.IntOpt(
            "broken_percent",
            mutable=True,
            default=50,
            min=0,
            max=100,
            help="No host of a cluster is fenced while more than this percentage of its hosts are broken:"
            " then the fault is likely elsewhere. Hosts in maintenance are not counted.",
        ),
        cfg.IntOpt(
            "again_seconds",
            mutable=True,
            default=120,
            min=0,
            max=86400,
            help="A host that has come back after it was fenced is not fenced again within so many seconds."
            " One that has not answered since is left alone in any case: nothing runs there.",
        ),
        cfg.FloatOpt(
            "retry_seconds",
            mutable=True,
            default=60.0,
            min=0.1,
            max=86400.0,
            help="How long after a treatment that failed the next one is tried, in seconds.",
        ),
        cfg.IntOpt(
            "reach_seconds",
            mutable=True,
            default=5,
            min=1,
            max=30,
            help="How long each engine tries to reach a host before it confirms that it cannot, in seconds.",
        ),
        cfg.BoolOpt(
            "soft_fencing",
            mutable=True,
            default=False,
            help="First have the agent of a host that does not answer started again, by SSH, which leaves its"
            " VMs running; its power is cut only where that does not help. Off by default, since each engine"
            " needs a key for it ([driver_vdsm] ssh_key_file).",
        ),
        cfg.IntOpt(
            "soft_grace_seconds",
            mutable=True,
            default=60,
            min=1,
            max=600,
            help="How long a host has to answer after its agent was started again, in seconds, before its"
            " power is cut; an agent that begins asks all of its VMs first.",
        ),
    )

    per_cluster = (
        "quiet_seconds",
        "broken_percent",
        "again_seconds",
        "retry_seconds",
        "reach_seconds",
        "soft_fencing",
        "soft_grace_seconds",
    )

    async def run(self, leadership: Leadership) -> None:
        treatments: dict[HostId, Treatment] = {}
        told: dict[HostId, str] = {}
        async for _ in leadership.every(lambda: self.context.options["interval_seconds"]):
            try:
                await self._look(treatments, told, leadership)
            except Unavailable as error:
                LOG.warning("hosts are not treated at this beat, the next one tries again: %s", error)

    async def _look(
        self, treatments: dict[HostId, Treatment], told: dict[HostId, str], leadership: Leadership
    ) -> None:
        silent = await self.context.ledger.reader.find("host", where={"status": "non_responsive"})
        known = {HostId(host["id"]): host["status_since"] for host in silent}
        for host_id in [each for each in treatments if known.get(each) != treatments[each].since]:
            del treatments[host_id]
        for host_id in told.keys() - known.keys():
            del told[host_id]
        for host in silent:
            if host["id"] not in treatments:
                treatments[HostId(host["id"])] = await self._found(host)
        if not silent:
            return
        due = [host for host in silent if await self._is_due(host, treatments, told, leadership)]
        refusals = await self._refusals(due, treatments)
        confirmed = [host for host in due if refusals[host["id"]] is None]
        for host, why_not in zip(confirmed, await self._doubts(confirmed), strict=True):
            refusals[host["id"]] = why_not or await self._treat(host, treatments, leadership)
        for host in due:
            await self._tell(host, refusals[host["id"]], told, leadership)

    async def _found(self, host: Row) -> Treatment:
        """What leaders before this one have asked for: the last of it may be under way."""
        treatment = Treatment(host["status_since"])
        while (command := await self.context.commands.asked_for(treatment.key(host["id"]))) is not None:
            if await self.context.commands.outcome(command) is None:
                treatment.command = command
                break
            treatment.number += 1
        return treatment

    async def _is_due(
        self, host: Row, treatments: dict[HostId, Treatment], told: dict[HostId, str], leadership: Leadership
    ) -> bool:
        """Not while its treatment runs, nor right after one that failed."""
        treatment = treatments[HostId(host["id"])]
        if treatment.command is not None:
            outcome = await self.context.commands.outcome(treatment.command)
            if outcome is None:
                return False
            treatment.command = None
            treatment.number += 1
            if outcome.command == SOFT and not outcome.succeeded:
                return True  # at once: it was the first of two ways
            if not outcome.succeeded:
                await self._tell(host, f"its treatment failed: {outcome.error}", told, leadership)
            pause = timedelta(seconds=self._options(host)["retry_seconds"])
            treatment.next_at = self.context.now() + pause
        return treatment.next_at is None or self.context.now() >= treatment.next_at

    def _options(self, host: Row) -> Mapping[str, Any]:
        """As they are set for the hosts of its cluster."""
        return self.context.options_of(host["cluster_id"])

    def _softly(self, host: Row, treatment: Treatment) -> bool:
        """Whether what comes next is the soft way: once in an incident, and first."""
        return treatment.number == 0 and bool(self._options(host)["soft_fencing"])

    async def _refusals(
        self, hosts: Sequence[Row], treatments: Mapping[HostId, Treatment]
    ) -> dict[str, str | None]:
        """Why each is left alone by the rules; None for those that may be fenced."""
        now, reader = self.context.now(), self.context.ledger.reader
        found: dict[str, str | None] = {}
        for host in hosts:
            options = self._options(host)
            cluster = await reader.get("host_cluster", host["cluster_id"])
            peers = await reader.find("host", where={"cluster_id": host["cluster_id"]})
            found[host["id"]] = against(
                host,
                cluster,
                peers,
                now=now,
                broken_percent=options["broken_percent"],
                again_seconds=options["again_seconds"],
                needs_power=not self._softly(host, treatments[HostId(host["id"])]),
            ) or too_new(self.context.members(), now, quiet_seconds=options["quiet_seconds"])
        return found

    async def _doubts(self, hosts: Sequence[Row]) -> list[str | None]:
        """Ask every engine, about all of them at once."""
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(self._doubt(host), name=f"reach {host['id']}") for host in hosts]
        return [task.result() for task in asking]

    async def _doubt(self, host: Row) -> str | None:
        members = sorted(self.context.members())
        seconds = self._options(host)["reach_seconds"]
        asked = {"host_id": host["id"], "seconds": seconds}
        answers: list[Answer] = []
        try:
            asking = self.context.calls.call_all("host_reach", asked, timeout_seconds=seconds + 5)
            async with contextlib.aclosing(asking):
                async for answer in asking:
                    answers.append(answer)
                    if answer.error is not None:
                        LOG.info("host=%s: %s cannot say: %s", host["id"], answer.engine, answer.error)
        except Unavailable as error:
            return f"the engines could not be asked whether they reach it: {error}"
        return doubt(members, answers)

    async def _treat(
        self, host: Row, treatments: dict[HostId, Treatment], leadership: Leadership
    ) -> str | None:
        """Have it treated; or why it is not."""
        treatment = treatments[HostId(host["id"])]
        command = SOFT if self._softly(host, treatment) else "treat_host"
        names = {"grace_seconds": "soft_grace_seconds"} if command == SOFT else _RULES
        asked = {argument: self._options(host)[option] for argument, option in names.items()}
        leadership.check()
        try:
            treatment.command = await self.context.commands.submit(
                command, {"host_id": host["id"], **asked}, key=treatment.key(host["id"])
            )
        except (Conflict, NotFound) as refused:
            return str(refused)
        return None

    async def _tell(
        self, host: Row, why_not: str | None, told: dict[HostId, str], leadership: Leadership
    ) -> None:
        """Say why it is left alone, once."""
        host_id = HostId(host["id"])
        if why_not is None or told.get(host_id) == why_not:
            return
        async with self.context.ledger.writing(leadership) as rows:
            message = f"host {host['name']} is not fenced: {why_not}"
            await rows.event("host_not_fenced", message, host_id=host_id, data={"reason": why_not})
        told[host_id] = why_not
