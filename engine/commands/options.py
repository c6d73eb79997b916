"""`[commands]`: how commands are run."""

from __future__ import annotations

from typing import Any

from oslo_config import cfg

from engine.commands.services import CommandSettings

GROUP = "commands"

OPTS = [
    cfg.FloatOpt(
        "quarantine_seconds",
        mutable=True,
        min=0.0,
        max=3600.0,
        help="How long after a takeover the last calls of the engine that died may still arrive at a host:"
        " until then nothing is sent again that must not happen twice, and what was under way stays"
        " locked. By default twice the ZooKeeper session's timeout.",
    ),
    cfg.IntOpt(
        "concurrent",
        mutable=True,
        default=500,
        min=1,
        max=10000,
        help="How many commands one engine runs at once; the others stay queued. Commands that wait for"
        " their children do not count.",
    ),
    cfg.FloatOpt(
        "look_seconds",
        mutable=True,
        default=1.0,
        min=0.1,
        max=60.0,
        help="How often an engine looks for commands by itself. It is told of each; this is for the case"
        " that the message is lost.",
    ),
]


def settings_from(values: Any, *, session_seconds: float, handover_seconds: float) -> CommandSettings:
    """Of the values of the group."""
    quarantine = values.quarantine_seconds
    return CommandSettings(
        quarantine_seconds=session_seconds * 2 if quarantine is None else quarantine,
        handover_seconds=handover_seconds,
        look_seconds=values.look_seconds,
        concurrent=values.concurrent,
    )
