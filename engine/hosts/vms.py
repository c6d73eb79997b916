"""The statuses of the virtual machines of one host, from full reports and from events in between.

Events bear the host's own clock; reports bear none. But a host cannot have stamped an event after
it arrived here, so `stamp - arrival` is never more than the offset of its clock from ours, and an
event stamped before `asked + offset` is certainly older than the answer to what was asked then.
Invariant: what is certainly older never replaces what is newer. In doubt (while a report is on its
way) the event counts: every change has one, they come in order, and the next report settles it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from engine.hosts.records import REASON_LENGTH, printable
from engine.plugin import HostEvent, VmId, VmReport

MAX_UNREPORTED = 10_000
"""Machines known from events only; a host that makes up more is not listened to."""


@dataclass(frozen=True, slots=True)
class _Word:
    """What an event said, when the host said it (its clock) and when it came (ours)."""

    status: str
    stamped: float
    arrived: float


class VmTable:
    """Times called `at` are on our clock, in seconds."""

    __slots__ = ("_asked", "_offset", "_statuses", "_words")

    def __init__(self) -> None:
        self._statuses: dict[VmId, str] = {}
        self._words: dict[VmId, _Word] = {}
        self._asked = -math.inf
        self._offset = -math.inf

    @property
    def statuses(self) -> Mapping[VmId, str]:
        """The agent's word for each machine."""
        return self._statuses

    def reconnected(self) -> None:
        """The agent may be another one, with another clock; what it said before orders nothing."""
        self._words.clear()
        self._offset = -math.inf

    def reported(self, vms: Iterable[VmReport], *, asked_at: float) -> None:
        """A full report came. What an event said since it was asked for stays, unless it is older."""
        self._asked = asked_at
        self._words = {
            vm: word
            for vm, word in self._words.items()
            if word.arrived >= asked_at and not self._outdated(word.stamped)
        }
        self._statuses = {vm.vm_id: vm.status for vm in vms}
        self._statuses.update((vm, word.status) for vm, word in self._words.items())

    def said(self, vm: VmId, status: str, *, stamped: float, at: float) -> bool:
        """An event came. Returns whether it was news, rather than older than what is known."""
        self._offset = max(self._offset, stamped - at)
        known = self._words.get(vm)
        if self._outdated(stamped) or (known is not None and stamped < known.stamped):
            return False
        if known is None and len(self._words) >= MAX_UNREPORTED:
            return False
        self._words[vm] = _Word(status, stamped, at)
        self._statuses[vm] = status
        return True

    def _outdated(self, stamped: float) -> bool:
        return stamped <= self._asked + self._offset


def report_of(event: HostEvent) -> VmReport:
    """What an event says of a VM; exit codes that are none are left out."""
    code, reason = event.params.get("exitCode"), event.params.get("exitReason")
    return VmReport(
        vm_id=VmId(event.subject),
        status=str(event.params["status"]),
        exit_code=code if isinstance(code, int) else None,
        exit_reason=reason if isinstance(reason, int) else None,
        exit_message=printable(str(event.params.get("exitMessage", "")), REASON_LENGTH),
    )
