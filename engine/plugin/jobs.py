"""Jobs (`engine.jobs`): what a plugin wants run at certain times, on the owner of the job's shard.

The entry point names a `Job`, declared once in the plugin's module:

    NIGHTLY = Job(cron="30 2 * * *", zone="Europe/Berlin", task="host_inventory")

    [project.entry-points."engine.jobs"]
    nightly_inventory = "my_plugin:NIGHTLY"

The entry point's name is the job's. Each engine that starts brings the cluster's jobs in line with what is
installed on it: the engine that started last decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Literal

from engine.plugin.base import CONTRACT_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Exactly one of `cron`, `every` and `at`, and one of `task` and `command`; checked when it is loaded.

    Durations are seconds, or text like '10s', '5m', '1.5h'.
    """

    contract: ClassVar[int] = CONTRACT_VERSION

    cron: str | None = None
    """Five fields, six with seconds in front, seven with years behind; `@daily`; `?`, `L`, `15W`, `5#2`."""
    every: float | str | None = None
    """Counted from `start`, else from when the job was first seen."""
    at: datetime | None = None
    zone: str = "UTC"
    """The time zone that `cron` is meant in."""
    start: datetime | None = None
    end: datetime | None = None
    jitter: float | str = 0.0
    task: str | None = None
    """The name of a task; its arguments are `arguments`."""
    command: str | None = None
    """The type of a command, submitted in the transaction of the run."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    group: str = "plugins"
    misfire: Literal["fire_once", "fire_all", "skip"] = "fire_once"
    grace: float | str = 60.0
    overlap: bool = False
    timeout: float | str | None = None
    """Of a run; by default the task's own."""
    retries: int = 0
    retry_pause: float | str = 10.0
    recovery: Literal["rerun", "fail"] = "fail"
    """What becomes of a run whose engine died. `rerun` asks for a task that may be done twice."""
    keep: int = 100
    paused: bool = False
    """At first; people pause and resume it afterwards."""
