"""The frozen records of VMs and of host clusters, and what their fields may hold.

Checks raise `InvalidInput` naming the field; the API and the commands use the same ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from engine.errors import InvalidInput
from engine.hosts.vm_status import VmState
from engine.plugin import ClusterId, HostId, ShardId, VmId, VmStatus

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_MEBIBYTE = 1024 * 1024

POLICIES = ("spread", "pack")
AFFINITIES = ("together", "apart")
BALANCING = ("none", "even", "power_saving")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCluster:
    """A group of hosts. Percentages say how much more than it has may be promised of a host."""

    id: ClusterId
    name: str
    description: str
    policy: str
    memory_percent: int
    cpu_percent: int
    fencing: bool
    balancing: str
    version: int
    created_at: datetime

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        return cls(**row)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """A VM as its row has it. `version` grows when a person changes it, not with its status.

    `wanted` is what people asked for last, 'up' or 'down'; `restart_tries` and `restart_at` tell of one
    that is down though it should be up. A higher `priority` (0..100) is restarted first.
    """

    id: VmId
    name: str
    description: str
    cluster_id: ClusterId
    shard: ShardId
    memory_bytes: int
    cpus: int
    highly_available: bool
    priority: int
    wanted: str
    restart_tries: int
    restart_at: datetime | None
    pinned_host_id: HostId | None
    affinity_group: str | None
    affinity: str | None
    status: VmStatus
    status_reason: str
    status_since: datetime
    host_id: HostId | None
    destination_id: HostId | None
    operation_id: str | None
    missing_since: datetime | None
    tried_hosts: Any
    exit_code: int | None
    exit_reason: int | None
    exit_message: str
    reported_at: datetime | None
    created_at: datetime
    version: int

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        return cls(**{**row, "status": VmStatus(row["status"])})


@dataclass(frozen=True, slots=True)
class VmPage:
    """Some VMs in order; `next_marker` is where to go on, None at the end."""

    vms: tuple[Vm, ...]
    next_marker: VmId | None


def state_from_row(row: Mapping[str, Any]) -> VmState:
    return VmState(
        status=VmStatus(row["status"]),
        since=row["status_since"],
        host_id=row["host_id"],
        destination_id=row["destination_id"],
        held=row["operation_id"] is not None,
        reason=row["status_reason"],
        missing_since=row["missing_since"],
        exit_code=row["exit_code"],
        exit_reason=row["exit_reason"],
        exit_message=row["exit_message"],
    )


def state_columns(state: VmState) -> dict[str, Any]:
    """The columns that reports change; a VM that is held no more loses its operation."""
    columns = {
        "status": str(state.status),
        "status_since": state.since,
        "status_reason": state.reason[:500],
        "host_id": state.host_id,
        "destination_id": state.destination_id,
        "missing_since": state.missing_since,
        "exit_code": state.exit_code,
        "exit_reason": state.exit_reason,
        "exit_message": state.exit_message[:500],
    }
    return columns if state.held else {**columns, "operation_id": None}


def checked_entity_name(name: object) -> str:
    """A name that is not mistaken for an id. Raises `InvalidInput` for the field `name`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        wrong = "1 to 255 letters, digits, dots, dashes and underscores, the first a letter or digit"
        told = f"not a name: {str(name)[:80]!r}; allowed: {wrong}"
        raise InvalidInput(told, fields={"name": f"must be {wrong}"})
    if _UUID.fullmatch(name):
        raise InvalidInput("the name looks like an id", fields={"name": "must not look like an id"})
    return name


def checked_memory(memory_bytes: object) -> int:
    return _whole("memory_bytes", memory_bytes, _MEBIBYTE, 2**50)


def checked_cpus(cpus: object) -> int:
    return _whole("cpus", cpus, 1, 4096)


def checked_priority(priority: object) -> int:
    return _whole("priority", priority, 0, 100)


def checked_percent(field: str, percent: object) -> int:
    return _whole(field, percent, 1, 10_000)


def checked_word(field: str, word: object, allowed: tuple[str, ...]) -> str:
    if word not in allowed:
        wrong = f"one of {', '.join(allowed)}"
        raise InvalidInput(f"{field} must be {wrong}", fields={field: f"must be {wrong}"})
    return str(word)


def _whole(field: str, value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        wrong = f"must be a whole number from {least} to {most}"
        raise InvalidInput(f"{field} {wrong}", fields={field: wrong})
    return value
