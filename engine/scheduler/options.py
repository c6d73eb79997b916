"""`[scheduler]`: how jobs are run."""

from __future__ import annotations

from typing import Any

from oslo_config import cfg

from engine.scheduler.services import SchedulerSettings

GROUP = "scheduler"

OPTS = [
    cfg.IntOpt(
        "concurrent",
        mutable=True,
        default=500,
        min=1,
        max=100000,
        help="How many runs of jobs one engine carries out at once; further ones wait, as running. Runs that"
        " wait for a command do not count.",
    ),
    cfg.IntOpt(
        "batch",
        mutable=True,
        default=200,
        min=1,
        max=2000,
        help="How many jobs that are due are fired in one transaction. More are faster where many are due at"
        " one instant, and hold back who edits one of them for longer.",
    ),
    cfg.FloatOpt(
        "look_seconds",
        mutable=True,
        default=5.0,
        min=0.5,
        max=60.0,
        help="How often an engine looks for jobs by itself. It is told of each change; this is for the case"
        " that the message is lost.",
    ),
    cfg.FloatOpt(
        "clock_seconds",
        mutable=True,
        default=10.0,
        min=1.0,
        max=600.0,
        help="How often an engine asks the database for its time, by which it judges what is due. Its own"
        " wall clock may jump meanwhile.",
    ),
]


def settings_from(values: Any, *, handover_seconds: float) -> SchedulerSettings:
    """Of the values of the group."""
    return SchedulerSettings(
        window_seconds=max(30.0, 3 * values.look_seconds),
        look_seconds=values.look_seconds,
        batch=values.batch,
        concurrent=values.concurrent,
        handover_seconds=handover_seconds,
        sample_seconds=values.clock_seconds,
    )
