"""`[hosts]`: how often hosts are asked, and how patient the engine is with those that do not answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from oslo_config import cfg

from engine.hosts.status import Timings

GROUP = "hosts"
PER_CLUSTER = (
    "tick_seconds",
    "statistics_seconds",
    "round_deadline_seconds",
    "grace_attempts",
    "grace_seconds",
    "grace_vm_seconds",
    "recovering_seconds",
)
"""These may be set for the hosts of one host cluster."""

OPTS = [
    cfg.FloatOpt(
        "tick_seconds",
        mutable=True,
        default=3.0,
        min=0.01,
        max=60.0,
        help="How often a host that is not up is asked again, in seconds, and how soon a lost connection"
        " is noticed. The default is oVirt's.",
    ),
    cfg.FloatOpt(
        "statistics_seconds",
        mutable=True,
        default=15.0,
        min=0.01,
        max=3600.0,
        help="How often a host that is up is asked for its statistics and its virtual machines, in"
        " seconds; rounded to whole ticks. Changes of virtual machines arrive by themselves in between.",
    ),
    cfg.FloatOpt(
        "round_deadline_seconds",
        mutable=True,
        default=120.0,
        min=0.1,
        max=3600.0,
        help="After this long a round of questions to a host counts as failed whatever its driver says, in"
        " seconds. A guard against a faulty driver: keep it above what the driver's own deadlines for a"
        " connect and three calls add up to.",
    ),
    cfg.IntOpt(
        "grace_attempts",
        mutable=True,
        default=2,
        min=0,
        max=1000,
        help="So many failures in a row leave a host `connecting`; one more makes it `non_responsive`, but"
        " not before the grace in seconds is over.",
    ),
    cfg.FloatOpt(
        "grace_seconds",
        mutable=True,
        default=60.0,
        min=0.0,
        max=3600.0,
        help="How long after its last good answer a failing host stays `connecting`, in seconds.",
    ),
    cfg.FloatOpt(
        "grace_vm_seconds",
        mutable=True,
        default=0.5,
        min=0.0,
        max=60.0,
        help="Added to the grace for each virtual machine on the host, in seconds: a loaded host gets more"
        " time, since giving it up costs more.",
    ),
    cfg.FloatOpt(
        "recovering_seconds",
        mutable=True,
        default=180.0,
        min=0.0,
        max=3600.0,
        help="How long an agent may answer that it is recovering before its host is `non_operational`, in"
        " seconds.",
    ),
    cfg.IntOpt(
        "connects",
        mutable=True,
        default=100,
        min=1,
        max=100_000,
        help="How many hosts are connected to at once. Bounds what a takeover of thousands of hosts asks"
        " of the loop at any moment; one that takes longer than a quarter of a second no longer counts, so"
        " dead hosts do not hold up others. More does not make a takeover shorter, only the loop slower to"
        " answer; where hosts are more than 10 ms away, raise it in proportion.",
    ),
    cfg.FloatOpt(
        "flush_seconds",
        mutable=True,
        default=0.25,
        min=0.0,
        max=60.0,
        help="How long changes of status are gathered before they are written to the database together, in"
        " seconds. Reports that change no status wait four times as long for company: larger transactions"
        " cost a fraction of the processor and of the disk.",
    ),
    cfg.IntOpt(
        "flush_rows",
        mutable=True,
        default=500,
        min=1,
        max=10_000,
        help="How many hosts' reports are written in one transaction at most.",
    ),
    cfg.FloatOpt(
        "refresh_seconds",
        mutable=True,
        default=10.0,
        min=0.1,
        max=3600.0,
        help="How often the rows of the hosts are compared with what is watched, in seconds, should a"
        " notice of a change have been lost.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorSettings:
    """The values of `OPTS`, as the fleet and its monitors take them."""

    tick_seconds: float = 3.0
    statistics_seconds: float = 15.0
    round_deadline_seconds: float = 120.0
    connects: int = 100
    flush_seconds: float = 0.25
    flush_rows: int = 500
    refresh_seconds: float = 10.0
    timings: Timings = field(default_factory=Timings)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """`values`: each option's value by its name."""
        patience = {
            name: values[name]
            for name in (
                "grace_attempts",
                "grace_seconds",
                "grace_vm_seconds",
                "recovering_seconds",
            )
        }
        rest = {option.dest: values[option.dest] for option in OPTS if option.dest not in patience}
        return cls(timings=Timings(**patience), **rest)

    @property
    def period_ticks(self) -> int:
        """Ticks between two statistics of a host that is up."""
        return max(1, round(self.statistics_seconds / self.tick_seconds))
