"""Zero doubles, zero lost: what the demo may say of its VMs, decided from what others tell. Pure.

The simulator's log says what really ran where and what was sent; the API says how each command ended
and where the database thinks each VM is. Whoever submitted the commands says what was asked for. Each
fault is one sentence that a person can follow up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from plugins.simulator import witness
from plugins.simulator.log import Entry

_TOLD = 20
"""What goes wrong a thousand times is not told a thousand times."""
_ERROR_LENGTH = 200
ENDED_WELL = "succeeded"
ENDED = frozenset({"succeeded", "failed", "compensated", "cancelled"})


@dataclass(frozen=True, slots=True)
class Submitted:
    """A command that the API accepted, and what it says of it now. `state` "" : it knows it no more.

    `hosts`: the ids of those that its steps had to do with; told of commands that failed only.
    """

    id: str
    type: str
    vm: str
    state: str
    error: str = ""
    ended_at: datetime | None = None
    hosts: frozenset[str] = frozenset()

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def may_end(self) -> bool:
        """Whether it may still end by itself."""
        return self.state not in (*ENDED, "needs_operator", "")


@dataclass(frozen=True, slots=True)
class VmRow:
    """A VM as the database has it; `port` is that of its host, None where it is on none."""

    id: str
    name: str
    status: str
    port: int | None


@dataclass(slots=True)
class VmVerdict:
    """What became of the VMs and of all that was asked for them."""

    vms: int = 0
    commands: int = 0
    succeeded: int = 0
    expected_failures: list[str] = field(default_factory=list)
    doubles: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        return [*self.doubles, *self.lost]

    def lines(self) -> list[str]:
        """For people."""
        ok = "FAIL" if self.failures else "ok  "
        lines = [
            f"{ok} {self.vms} VMs, {self.commands} commands: {self.succeeded} succeeded,"
            f" {len(self.expected_failures)} failed for a reason that is expected here",
            f"     {len(self.doubles)} doubles, {len(self.lost)} lost",
        ]
        told = [*self.failures, *self.expected_failures]
        lines += [f"     {failure}" for failure in told[:_TOLD]]
        return lines + ([f"     ... and {len(told) - _TOLD} more"] if len(told) > _TOLD else [])


def judge_vms(
    log: Sequence[Entry],
    rows: Sequence[VmRow],
    truth: Mapping[int, Mapping[str, str]],
    commands: Sequence[Submitted],
    *,
    excuse: Callable[[Submitted], str | None],
) -> VmVerdict:
    """`truth`: the status of each VM on each host, by port, as the simulator has it now. `commands`: all
    that there are, also those that engines asked for themselves.

    `excuse`: why a command that failed had to, because of what the demo did; None where it did nothing.
    """
    verdict = VmVerdict(vms=len(rows), commands=len(commands))
    names = {row.id: row.name for row in rows}
    verdict.doubles += _doubles(log, names, commands)
    for command in commands:
        if command.state == ENDED_WELL:
            verdict.succeeded += 1
        elif command.ended and (why := excuse(command)) is not None:
            verdict.expected_failures.append(f"{command.type} of {command.vm}: {command.error} ({why})")
        else:
            verdict.lost.append(_lost(command))
    verdict.lost += astray(rows, truth)
    return verdict


def astray(rows: Iterable[VmRow], truth: Mapping[int, Mapping[str, str]]) -> list[str]:
    """Where the database and the hosts disagree on what is up, and where."""
    found = []
    actual: dict[str, list[int]] = {}
    for port, vms in truth.items():
        for vm_id, status in vms.items():
            if status == "Up":
                actual.setdefault(vm_id, []).append(port)
    for row in rows:
        places = actual.pop(row.id, [])
        if row.status != "up" or row.port is None:
            found.append(f"VM {row.name} is {row.status}, not up, though nobody stopped it")
        elif places != [row.port]:
            real = " and ".join(f"port {port}" for port in places) or "no host"
            found.append(f"VM {row.name} is on port {row.port} for the database, but runs on {real}")
    for vm_id, places in actual.items():
        found.append(f"VM {vm_id} runs on port {places[0]}, and the database does not know it")
    return found


def _doubles(log: Sequence[Entry], names: Mapping[str, str], commands: Iterable[Submitted]) -> list[str]:
    found = []
    for double in witness.in_two_places(log):
        hosts = " and ".join(f"port {port}" for port in double.hosts)
        found.append(f"VM {names.get(double.vm, double.vm)} ran on {hosts} at once, at {double.t:.3f}")
    for twice in witness.sent_twice(log):
        again, first = twice.request, twice.earlier
        found.append(
            f"{again.verb} was sent twice for operation {again.op}: by {first.engine} to port {first.host}"
            f" at {first.t:.3f}, by {again.engine} to port {again.host} at {again.t:.3f}"
        )
    runs = Counter(command.vm for command in commands if command.type == "run_vm")
    for vm_id, ports in witness.created(log).items():
        name = names.get(vm_id, vm_id)
        if len(ports) > runs[name]:
            found.append(
                f"VM {name} was started {len(ports)} times, on ports {ports}, though {runs[name]} starts"
                " were asked for"
            )
    return found


def _lost(command: Submitted) -> str:
    what = f"{command.type} of {command.vm} ({command.id})"
    if not command.state:
        return f"{what} was accepted, and is known no more"
    why = " ".join(command.error.split())[:_ERROR_LENGTH]
    if not command.ended:
        return f"{what} has not ended: it is {command.state}" + (f": {why}" if why else "")
    return f"{what} ended as {command.state}: {why or 'no reason was given'}"
