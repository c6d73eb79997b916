"""The frozen records of a host: its row, what its owner watches, and what is to be written.

A `HostReport` is what one monitor has to tell the database; two of the same host merge into one,
so a database that is away costs one record a host and never a status.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Self, TypeVar

from engine.db.tables import DEFAULT_CLUSTER
from engine.errors import Conflict, InvalidInput
from engine.hosts.status import HostStatus
from engine.plugin import ClusterId, HostCapabilities, HostId, HostStatistics, ShardId

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_DRIVER = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_MOST_CORES = 1_000_000
_MOST_BYTES = 2**60
THE_DEFAULT_CLUSTER = ClusterId(DEFAULT_CLUSTER)
_MOST_VMS = 100_000
_Number = TypeVar("_Number", int, float)
REASON_LENGTH = 500
"""Characters that are kept of what a host says by way of a reason."""
_KEPT_CHANGES = 16
"""Changes of status that one report carries at most; the oldest ones are given up first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A host as its row has it. `capabilities` and `statistics` are None until first reported.

    `version` grows when a person changes it. `asked` is what was last asked of its monitor
    ("activate", "maintenance"); it has been heeded once `heeded_count` is `asked_count`.
    """

    id: HostId
    name: str
    address: str
    port: int
    driver: str
    shard: ShardId
    status: HostStatus
    status_reason: str
    status_since: datetime
    capabilities: Mapping[str, Any] | None
    statistics: Mapping[str, Any] | None
    reported_at: datetime | None
    created_at: datetime
    cluster_id: ClusterId = THE_DEFAULT_CLUSTER
    version: int = 1
    power_management: Mapping[str, Any] | None = None
    fenced_at: datetime | None = None
    asked: str | None = None
    asked_count: int = 0
    heeded_count: int = 0

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        return cls(**{**row, "status": HostStatus(row["status"])})


@dataclass(frozen=True, slots=True)
class HostPage:
    """Some hosts in order; `next_marker` is where to go on, None at the end."""

    hosts: tuple[Host, ...]
    next_marker: HostId | None


class Placement(NamedTuple):
    """How a host is called and reached, in which host cluster, and how often something was asked of it.

    A tuple, since these are compared by the thousand.
    """

    id: HostId
    name: str
    address: str
    port: int
    driver: str
    shard: ShardId
    cluster_id: ClusterId = THE_DEFAULT_CLUSTER
    asked_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedHost:
    """The part of a row that its owner needs in order to watch the host."""

    id: HostId
    name: str
    address: str
    port: int
    driver: str
    shard: ShardId
    status: HostStatus
    status_reason: str
    status_since: datetime
    reported_at: datetime | None
    vm_count: int
    cluster_id: ClusterId = THE_DEFAULT_CLUSTER
    asked: str | None = None
    asked_count: int = 0
    heeded_count: int = 0

    @property
    def placement(self) -> Placement:
        return Placement(
            self.id,
            self.name,
            self.address,
            self.port,
            self.driver,
            self.shard,
            self.cluster_id,
            self.asked_count,
        )

    def report(
        self,
        epoch: int,
        *,
        changes: tuple[StatusChange, ...] = (),
        reported_at: datetime | None = None,
        capabilities: Mapping[str, Any] | None = None,
        statistics: Mapping[str, Any] | None = None,
        heeded_count: int = 0,
    ) -> HostReport:
        """What is to be written about this host, in the name of that epoch of its shard."""
        return HostReport(
            host_id=self.id,
            name=self.name,
            shard=self.shard,
            epoch=epoch,
            changes=changes,
            reported_at=reported_at,
            capabilities=capabilities,
            statistics=statistics,
            heeded_count=heeded_count,
        )

    def is_where(self, other: WatchedHost) -> bool:
        """Whether both are called and reached alike, in the same host cluster."""
        return self.placement[:-1] == other.placement[:-1]


@dataclass(frozen=True, slots=True)
class StatusChange:
    """A host went from one status to another."""

    before: HostStatus
    status: HostStatus
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """What a monitor learnt since its last report, in the name of its shard's epoch."""

    host_id: HostId
    name: str
    shard: ShardId
    epoch: int
    changes: tuple[StatusChange, ...] = ()
    reported_at: datetime | None = None
    capabilities: Mapping[str, Any] | None = None
    statistics: Mapping[str, Any] | None = None
    heeded_count: int = 0

    def then(self, later: HostReport) -> HostReport:
        """Both in one. Of two epochs the later one counts: its owner saw the host last."""
        return HostReport(
            host_id=self.host_id,
            name=later.name,
            shard=later.shard,
            epoch=later.epoch,
            changes=(self.changes + later.changes)[-_KEPT_CHANGES:],
            reported_at=later.reported_at or self.reported_at,
            capabilities=later.capabilities or self.capabilities,
            statistics=later.statistics or self.statistics,
            heeded_count=max(self.heeded_count, later.heeded_count),
        )


class VersionConflict(Conflict):
    """The entity was changed by somebody else since it was read."""


class ImplausibleAnswer(InvalidInput):
    """A host reported something that no host can mean."""


def capabilities_row(capabilities: HostCapabilities) -> dict[str, Any]:
    """What is kept of them; the agent's raw answer (tens of KiB) is not. Raises `ImplausibleAnswer`."""
    return {
        "cpu_cores": _plausible("cpu_cores", capabilities.cpu_cores, _MOST_CORES),
        "memory_bytes": _plausible("memory_bytes", capabilities.memory_bytes, _MOST_BYTES),
        "cluster_levels": [printable(level, 64) for level in capabilities.cluster_levels[:64]],
        "agent_version": printable(capabilities.agent_version, 255),
        "uuid": printable(capabilities.uuid, 255),
    }


def statistics_row(statistics: HostStatistics) -> dict[str, Any]:
    """What is kept of them. Raises `ImplausibleAnswer`."""
    return {
        "vm_count": _plausible("vm_count", statistics.vm_count, _MOST_VMS),
        "vm_active": _plausible("vm_active", statistics.vm_active, _MOST_VMS),
        "vm_migrating": _plausible("vm_migrating", statistics.vm_migrating, _MOST_VMS),
        "memory_free_bytes": _plausible("memory_free_bytes", statistics.memory_free_bytes, _MOST_BYTES),
        "cpu_load_percent": _plausible("cpu_load_percent", statistics.cpu_load_percent, 100),
    }


def printable(text: str, length: int) -> str:
    """What a host said, fit for a row and a terminal: one line, without control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:length])


def _plausible(what: str, value: _Number, most: int) -> _Number:
    if not 0 <= value <= most:  # false for NaN, too
        raise ImplausibleAnswer(f"the host reports a {what} of {str(value)[:40]}")
    return value


def checked_name(name: str) -> str:
    """The name. Raises `InvalidInput` for the field `name`."""
    if not _NAME.fullmatch(name):
        wrong = "1 to 255 letters, digits, dots, dashes and underscores, the first a letter or digit"
        told = f"not a host name: {name[:80]!r}; allowed: {wrong}"
        raise InvalidInput(told, fields={"name": f"must be {wrong}"})
    return name


def checked_address(address: str) -> str:
    """The address in its one spelling: lower case, IP addresses compressed."""
    spelled = address.strip().lower()
    try:
        return str(ipaddress.ip_address(spelled))
    except ValueError:
        pass
    labels = spelled.removesuffix(".").split(".")
    numeric = labels[-1].isdigit()  # 10.0.0.300 is a mistyped IP address, not a name
    if len(spelled) > 253 or numeric or not all(_LABEL.fullmatch(label) for label in labels):
        wrong = "a DNS name or an IPv4 or IPv6 address, without a port"
        told = f"not an address: {address[:80]!r}; allowed: {wrong}"
        raise InvalidInput(told, fields={"address": f"must be {wrong}"})
    return spelled.removesuffix(".")


def checked_port(port: int) -> int:
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        raise InvalidInput(f"not a port: {port!r}; allowed: 1 to 65535", fields={"port": "1 to 65535"})
    return port


def checked_driver(driver: str, known: Collection[str] | None) -> str:
    """The driver's name; where it is known which there are, one of those."""
    if known is not None and driver not in known:
        wrong = f"one of {', '.join(sorted(known)) or 'none: no driver is installed'}"
        raise InvalidInput(f"no driver {driver[:64]!r}; allowed: {wrong}", fields={"driver": wrong})
    if not _DRIVER.fullmatch(driver):
        wrong = "the name of a driver"
        raise InvalidInput(f"not a driver: {driver[:64]!r}", fields={"driver": wrong})
    return driver
