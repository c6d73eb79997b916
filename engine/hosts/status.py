"""What a host's status is, and how an observation changes it: one pure table.

`transition(state, observation)` is the only way a status changes. It has no clock, no I/O and no
log; times are seconds on CLOCK_BOOTTIME. The sixteen statuses, the grace for a host that stops
answering and the time given to a recovering agent follow oVirt. Invariant: a status outside
`MONITORED` is left only by what a person or a command asked for, never by what the network did.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from engine.errors import Conflict


class HostStatus(enum.StrEnum):
    """The value is the word of the API and of the database."""

    UNASSIGNED = "unassigned"
    DOWN = "down"
    MAINTENANCE = "maintenance"
    UP = "up"
    NON_RESPONSIVE = "non_responsive"
    ERROR = "error"
    INSTALLING = "installing"
    INSTALL_FAILED = "install_failed"
    REBOOT = "reboot"
    PREPARING_FOR_MAINTENANCE = "preparing_for_maintenance"
    NON_OPERATIONAL = "non_operational"
    PENDING_APPROVAL = "pending_approval"
    INITIALIZING = "initializing"
    CONNECTING = "connecting"
    INSTALLING_OS = "installing_os"
    KDUMPING = "kdumping"


_S = HostStatus

MONITORED = frozenset(
    {
        _S.UNASSIGNED,
        _S.UP,
        _S.NON_RESPONSIVE,
        _S.ERROR,
        _S.PREPARING_FOR_MAINTENANCE,
        _S.NON_OPERATIONAL,
        _S.INITIALIZING,
        _S.CONNECTING,
    }
)
"""Statuses in which the host is polled."""

SETTLED = frozenset({_S.UP, _S.ERROR, _S.NON_OPERATIONAL})
"""Statuses polled at the pace of statistics; the other monitored ones are polled each tick."""

PROVING = frozenset({_S.UNASSIGNED, _S.NON_RESPONSIVE, _S.INITIALIZING, _S.CONNECTING})
"""Statuses that end in `up` once capabilities and then statistics have been answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """How patient the machine is; oVirt's figures."""

    grace_attempts: int = 2
    grace_seconds: float = 60.0
    grace_vm_seconds: float = 0.5
    recovering_seconds: float = 180.0


@dataclass(frozen=True, slots=True)
class HostState:
    """A status and what its next change depends on.

    `attempts` failed in a row; `last_ok` is the time of the last good answer, None before the
    first one; `vms` is the last count the host gave; `capable`: capabilities were answered since
    the host last failed.
    """

    status: HostStatus
    reason: str
    since: float
    last_ok: float | None = None
    attempts: int = 0
    vms: int = 0
    capable: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """Something seen or asked for at a moment."""

    at: float


class Activated(Observation):
    """Somebody asked for the host to be used."""

    __slots__ = ()


class MaintenanceRequested(Observation):
    """Somebody asked for the host to be emptied and left alone."""

    __slots__ = ()


class PowerCut(Observation):
    """The host is known to have been switched off, or its restart was confirmed by a person."""

    __slots__ = ()


class CapabilitiesOk(Observation):
    """The host said what it can do."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class StatisticsOk(Observation):
    """The host said how it fares, with so many virtual machines."""

    vms: int


@dataclass(frozen=True, slots=True)
class NetworkFailed(Observation):
    """The host could not be reached, or did not answer in time."""

    why: str


class Recovering(Observation):
    """The agent answered that it is still recovering (VDSM: code 99)."""

    __slots__ = ()


class Refused(Observation):
    """The agent answered with another error: it is alive, and nothing else is known."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class FoundUnfit(Observation):
    """The host answers or not, but this cluster cannot use it as it is."""

    why: str


class TimePassed(Observation):
    """Nothing happened, which is enough to end what was only allowed for a while."""

    __slots__ = ()


class IllegalMove(Conflict):
    """The host is in a status that does not allow what was asked or cannot have been observed."""

    def __init__(self, status: HostStatus, observation: Observation) -> None:
        super().__init__(f"{type(observation).__name__} is not possible while the host is {status}")
        self.status = status


def transition(state: HostState, observation: Observation, timings: Timings) -> HostState:
    """The state after the observation. Raises `IllegalMove` where the table has no entry."""
    decide = TABLE[type(observation)].get(state.status)
    if decide is None:
        raise IllegalMove(state.status, observation)
    learned = _learn(state, observation)
    status = decide(learned, observation.at, timings)
    if status is state.status:
        return learned
    reason = _reason(learned, status, observation, timings)
    return replace(learned, status=status, reason=reason, since=observation.at)


def in_grace(state: HostState, at: float, timings: Timings) -> bool:
    """Whether a host that fails is still given time to come back."""
    if state.attempts <= timings.grace_attempts:
        return True
    if state.last_ok is None:
        return False
    return at <= state.last_ok + timings.grace_seconds + timings.grace_vm_seconds * state.vms


def _learn(state: HostState, observation: Observation) -> HostState:
    match observation:
        case StatisticsOk(at=at, vms=vms):  # the frequent one: `replace` takes four times as long
            return HostState(state.status, state.reason, state.since, at, 0, vms, state.capable)
        case CapabilitiesOk(at=at):
            return replace(state, last_ok=at, attempts=0, capable=True)
        case NetworkFailed():
            return replace(state, attempts=state.attempts + 1, capable=False)
        case Recovering():
            return replace(state, attempts=0, capable=False)
        case Refused():
            return replace(state, attempts=0) if state.attempts else state
        case Activated():
            return replace(state, attempts=0, capable=False)
        case _:
            return state


def _reason(state: HostState, status: HostStatus, observation: Observation, timings: Timings) -> str:
    match observation, status:
        case FoundUnfit(why=why), _:
            return why
        case NetworkFailed(why=why), _S.NON_RESPONSIVE:
            if state.last_ok is None:
                return f"has never answered: {why}"
            return f"no answer for {observation.at - state.last_ok:.0f} s: {why}"
        case NetworkFailed(why=why), _:
            return f"no answer: {why}"
        case Recovering(), _S.INITIALIZING:
            return "the agent is recovering"
        case _, _S.NON_OPERATIONAL:
            return f"the agent has been recovering for more than {timings.recovering_seconds:.0f} s"
        case PowerCut(), _:
            return "it was switched off"
        case MaintenanceRequested(), _S.MAINTENANCE:
            return f"maintenance was requested while the host was {state.status}"
        case MaintenanceRequested(), _:
            return "maintenance was requested"
        case StatisticsOk(), _S.MAINTENANCE:
            return "maintenance was requested and no virtual machine is left"
        case _:
            return ""


# --- the table ----------------------------------------------------------------------------------

Decision = Callable[[HostState, float, Timings], HostStatus]


def _stay(state: HostState, _at: float, _timings: Timings) -> HostStatus:
    return state.status


def _to(status: HostStatus) -> Decision:
    return lambda _state, _at, _timings: status


def _up_once_capable(state: HostState, _at: float, _timings: Timings) -> HostStatus:
    return _S.UP if state.capable else state.status


def _maintenance_once_empty(state: HostState, _at: float, _timings: Timings) -> HostStatus:
    return _S.MAINTENANCE if state.vms == 0 else state.status


def _connecting_in_grace(state: HostState, at: float, timings: Timings) -> HostStatus:
    return _S.CONNECTING if in_grace(state, at, timings) else _S.NON_RESPONSIVE


def _stay_in_grace(state: HostState, at: float, timings: Timings) -> HostStatus:
    # The request for maintenance must outlive a short cut of the network.
    return state.status if in_grace(state, at, timings) else _S.NON_RESPONSIVE


def _initializing_for_a_while(state: HostState, at: float, timings: Timings) -> HostStatus:
    return _S.NON_OPERATIONAL if at > state.since + timings.recovering_seconds else state.status


def _each(statuses: frozenset[HostStatus] | set[HostStatus], decide: Decision) -> dict[HostStatus, Decision]:
    return dict.fromkeys(statuses, decide)


_UNMONITORED = frozenset(_S) - MONITORED

TABLE: Mapping[type[Observation], Mapping[HostStatus, Decision]] = {
    Activated: _each(
        {
            _S.MAINTENANCE,
            _S.PREPARING_FOR_MAINTENANCE,
            _S.NON_OPERATIONAL,
            _S.ERROR,
            _S.INSTALL_FAILED,
            _S.PENDING_APPROVAL,
            _S.DOWN,
        },
        _to(_S.UNASSIGNED),
    ),
    MaintenanceRequested: {
        **_each(
            {_S.UP, _S.UNASSIGNED, _S.INITIALIZING, _S.NON_OPERATIONAL, _S.ERROR},
            _to(_S.PREPARING_FOR_MAINTENANCE),
        ),
        **_each(
            {_S.NON_RESPONSIVE, _S.CONNECTING, _S.DOWN, _S.INSTALL_FAILED},
            _to(_S.MAINTENANCE),
        ),
        **_each({_S.PREPARING_FOR_MAINTENANCE, _S.MAINTENANCE}, _stay),
    },
    PowerCut: _each(frozenset(_S), _to(_S.DOWN)),
    CapabilitiesOk: _each(MONITORED, _stay),
    StatisticsOk: {
        **_each(PROVING, _up_once_capable),
        **_each(SETTLED, _stay),
        _S.PREPARING_FOR_MAINTENANCE: _maintenance_once_empty,
    },
    NetworkFailed: {
        **_each(SETTLED | PROVING, _connecting_in_grace),
        _S.NON_RESPONSIVE: _stay,
        _S.PREPARING_FOR_MAINTENANCE: _stay_in_grace,
        # The last failure of a connection that is no longer wanted says nothing about the host.
        **_each(_UNMONITORED, _stay),
    },
    Recovering: {
        **_each(MONITORED, _to(_S.INITIALIZING)),
        _S.INITIALIZING: _initializing_for_a_while,
        _S.NON_OPERATIONAL: _stay,
        _S.PREPARING_FOR_MAINTENANCE: _stay,
    },
    Refused: _each(MONITORED, _stay),
    FoundUnfit: _each(MONITORED, _to(_S.NON_OPERATIONAL)),
    TimePassed: {
        **_each(frozenset(_S), _stay),
        _S.INITIALIZING: _initializing_for_a_while,
    },
}
"""Which status follows, by observation and present status; what is absent is illegal."""

ASKED: Mapping[str, Callable[[float], Observation]] = {
    "activate": Activated,
    "maintenance": MaintenanceRequested,
    "power_cut": PowerCut,
}
"""What commands ask of a host's monitor, by the word in the host's row."""
