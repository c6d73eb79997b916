"""What the simulator's log proves about the engines: pure functions over its entries.

The log must be in the order of time (`plugins.simulator.log.read_log` gives it so). Every function
reads it once. Hosts are ports, times CLOCK_BOOTTIME seconds. Requests without an epoch (a person with
a tool, one host asking another) accuse nobody, but they are no polls either.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from plugins.simulator.log import GONE, Entry, PowerChange, Request, VmChange
from plugins.simulator.machines import VmStatus

Log = Iterable[Entry]

ONCE = frozenset({"VM.create", "VM.migrate", "VM.reset"})
"""Verbs that do something anew each time: no operation may send one of them twice."""
_NOWHERE = frozenset({GONE, VmStatus.DOWN.value, VmStatus.MIGRATION_DESTINATION.value})
_LEAVING = VmStatus.MIGRATION_SOURCE.value
_ARRIVING = VmStatus.MIGRATION_DESTINATION.value


@dataclass(frozen=True, slots=True)
class AskedByTwo:
    """`request` came although its host had already been asked by `newer`, whose epoch is later.

    Or: both bear one epoch and come from different engines, which no two owners ever share.
    """

    request: Request
    newer: Request


@dataclass(frozen=True, slots=True)
class InTwoPlaces:
    """At `t` the VM came to be on all of `hosts`."""

    vm: str
    hosts: tuple[int, ...]
    t: float


@dataclass(frozen=True, slots=True)
class SentTwice:
    """`request` does again what `earlier` did for the same operation."""

    request: Request
    earlier: Request


@dataclass(frozen=True, slots=True)
class _Place:
    """A VM on one host; `arrived`: by a migration, not by a start."""

    status: str
    arrived: bool


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which `host` was asked nothing."""

    host: int
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


def asked_by_two(log: Log) -> list[AskedByTwo]:
    """Every request of an owner whose time was over, in the order of the log."""
    newest: dict[int, Request] = {}
    found: list[AskedByTwo] = []
    for request in _owned(log):
        newer = newest.get(request.host)
        if newer is None or _epoch(request) > _epoch(newer):
            newest[request.host] = request
        elif _epoch(request) < _epoch(newer) or request.engine != newer.engine:
            found.append(AskedByTwo(request, newer))
    return found


def in_two_places(log: Log) -> list[InTwoPlaces]:
    """Every VM that was on two hosts at once, each time that it came to be so.

    At the end of a migration both ends have it for a moment; that is allowed as long as the source
    is still handing it over and the other end has got it that way.
    """
    places: dict[str, dict[int, _Place]] = {}
    found: list[InTwoPlaces] = []
    for entry in _in_order(log):
        if not isinstance(entry, VmChange):
            continue
        of_vm = places.setdefault(entry.vm, {})
        if entry.status in _NOWHERE:
            of_vm.pop(entry.host, None)
            if entry.status == _ARRIVING:
                of_vm[entry.host] = _Place(entry.status, arrived=True)
            continue
        before = of_vm.get(entry.host)
        of_vm[entry.host] = _Place(entry.status, arrived=before is not None and before.arrived)
        holders = {host: place for host, place in of_vm.items() if place.status != _ARRIVING}
        if len(holders) > 1 and not _is_handover(list(holders.values())):
            found.append(InTwoPlaces(entry.vm, tuple(sorted(holders)), entry.t))
    return found


def sent_twice(log: Log, verbs: Collection[str] = ONCE) -> list[SentTwice]:
    """Every request that repeats one of `verbs` for the same operation, on whatever host.

    What came to nothing in between may be tried again: a VM that had been created and was gone again with
    its machine, one that was on its way and is back.
    """
    first: dict[tuple[str, str], Request] = {}
    undone: dict[tuple[int, str], set[str]] = {}
    statuses: dict[tuple[int, str], str] = {}
    found: list[SentTwice] = []
    for entry in _in_order(log):
        if isinstance(entry, VmChange):
            place = entry.host, entry.vm
            before, statuses[place] = statuses.get(place, GONE), entry.status
            if entry.status == GONE:
                undone.setdefault(place, set()).add("VM.create")
            elif before == _LEAVING and entry.status not in _NOWHERE:
                undone.setdefault(place, set()).add("VM.migrate")
        elif isinstance(entry, Request) and entry.verb in verbs and entry.op:
            came_to_nothing = undone.get((entry.host, entry.vm), set())
            earlier = first.setdefault((entry.verb, entry.op), entry)
            if earlier is not entry and not (earlier.host == entry.host and entry.verb in came_to_nothing):
                found.append(SentTwice(entry, earlier))
            came_to_nothing.discard(entry.verb)
    return found


def created(log: Log) -> dict[str, list[int]]:
    """The hosts on which each VM was started, in order; a VM that arrived by migration was not."""
    hosts: dict[str, list[int]] = {}
    for entry in log:
        if isinstance(entry, VmChange) and entry.status == VmStatus.WAIT_FOR_LAUNCH:
            hosts.setdefault(entry.vm, []).append(entry.host)
    return hosts


def switched_off(log: Log) -> list[PowerChange]:
    """Each time that a machine lost its power."""
    return [entry for entry in log if isinstance(entry, PowerChange) and not entry.on]


def gaps(log: Log, hosts: Collection[int], *, since: float, until: float) -> dict[int, Gap]:
    """The longest gap of each host that reaches into the time from `since` to `until`.

    A gap that began before `since` counts from where it began, one that is not over at `until` counts
    up to there. A host that was never asked before `until` has one from `since` to `until`.
    """
    if until < since:
        raise ValueError(f"until ({until}) lies before since ({since})")
    last: dict[int, float] = {}
    longest: dict[int, Gap] = {}
    wanted = frozenset(hosts)

    def consider(host: int, start: float, end: float) -> None:
        before = longest.get(host)
        if before is None or end - start > before.seconds:
            longest[host] = Gap(host, start, end)

    for request in _owned(log):
        if request.t > until:
            break
        if request.host not in wanted:
            continue
        if request.t > since:
            consider(request.host, last.get(request.host, since), request.t)
        last[request.host] = request.t
    for host in wanted:
        consider(host, last.get(host, since), until)
    return longest


def lost_polls(
    log: Log,
    hosts: Collection[int],
    *,
    period_seconds: float,
    tick_seconds: float,
    since: float,
    until: float,
) -> list[Gap]:
    """Hosts that were left alone for longer than a period and one tick: the longest gap of each."""
    allowed = period_seconds + tick_seconds
    found = [gap for gap in gaps(log, hosts, since=since, until=until).values() if gap.seconds > allowed]
    return sorted(found, key=lambda gap: gap.host)


def first_requests_after(
    log: Log,
    hosts: Collection[int],
    t: float,
    *,
    engine: str | None = None,
    epoch: int | None = None,
    newer_than: int | None = None,
) -> dict[int, Request]:
    """Each host's first request later than `t`; a host that had none is left out.

    `engine` and `epoch` want exactly these, `newer_than` any later epoch.
    """
    missing = set(hosts)
    found: dict[int, Request] = {}
    for request in _owned(log):
        if request.t <= t or request.host not in missing:
            continue
        if engine is not None and request.engine != engine:
            continue
        if epoch is not None and request.epoch != epoch:
            continue
        if newer_than is not None and _epoch(request) <= newer_than:
            continue
        found[request.host] = request
        missing.discard(request.host)
        if not missing:
            break
    return found


def first_request_after(
    log: Log,
    host: int,
    t: float,
    *,
    engine: str | None = None,
    epoch: int | None = None,
    newer_than: int | None = None,
) -> Request | None:
    """As `first_requests_after`, of one host; None when it had none."""
    found = first_requests_after(log, [host], t, engine=engine, epoch=epoch, newer_than=newer_than)
    return found.get(host)


def _owned(log: Log) -> Iterator[Request]:
    """The requests made by an owner. Raises ValueError if the log is not in the order of time."""
    for entry in _in_order(log):
        if isinstance(entry, Request) and entry.epoch is not None:
            yield entry


def _in_order(log: Log) -> Iterator[Entry]:
    before = float("-inf")
    for entry in log:
        if entry.t < before:
            raise ValueError(f"the log goes back in time, from {before} to {entry.t}")
        before = entry.t
        yield entry


def _is_handover(places: list[_Place]) -> bool:
    """Two ends of a migration, of which one is about to let go."""
    leaving = [place for place in places if place.status == _LEAVING]
    staying = [place for place in places if place.status != _LEAVING]
    return len(leaving) == 1 and len(staying) == 1 and staying[0].arrived


def _epoch(request: Request) -> int:
    assert request.epoch is not None  # `_owned` saw to it
    return request.epoch
