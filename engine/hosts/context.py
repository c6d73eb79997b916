"""What a monitor is given: the claim that it acts under, and what all monitors of a fleet share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from engine.hosts.measures import FleetCounters
from engine.hosts.options import MonitorSettings
from engine.hosts.pacing import Gate, Grid
from engine.hosts.records import HostReport
from engine.hosts.settling import Heard
from engine.plugin import Authority, EngineId, ShardId


class ShardClaim(Protocol):
    """What the owner of a shard acts under."""

    @property
    def shard(self) -> ShardId: ...
    @property
    def epoch(self) -> int: ...
    @property
    def authority(self) -> Authority: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorContext:
    """What all monitors of a fleet share."""

    engine: EngineId
    settings: MonitorSettings
    grid: Grid
    gate: Gate
    counters: FleetCounters
    report: Callable[[HostReport], None]
    vms_heard: Callable[[Heard], None]
    clock: Callable[[], float]
    now: Callable[[], datetime]
