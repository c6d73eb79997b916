"""`[singletons]`: which of the installed singletons run, and how a faulty one is treated."""

from __future__ import annotations

from oslo_config import cfg

GROUP = "singletons"

OPTS = [
    cfg.ListOpt(
        "enabled",
        default=["*"],
        help="Names of the singletons (entry points of engine.singletons) that this engine loads; `*` means"
        " all that are installed. List them by name where only reviewed plugins may run: others are not"
        " even imported.",
    ),
    cfg.ListOpt(
        "disabled",
        default=[],
        help="Names of singletons that this engine does not load, also when `enabled` names them.",
    ),
    cfg.FloatOpt(
        "stop_seconds",
        mutable=True,
        default=3.0,
        min=0.1,
        max=60.0,
        help="How long a singleton that was cancelled may take to end, in seconds. One that takes longer is"
        " abandoned: it is logged, may not act any more, and is not started again here until it ends.",
    ),
    cfg.FloatOpt(
        "retry_seconds",
        mutable=True,
        default=1.0,
        min=0.05,
        max=60.0,
        help="How long a singleton rests here after its first failure, in seconds; doubled at each further"
        " one. Other engines may lead it meanwhile.",
    ),
    cfg.FloatOpt(
        "retry_max_seconds",
        mutable=True,
        default=60.0,
        min=0.05,
        max=3600.0,
        help="The longest rest after repeated failures, in seconds. A singleton that ran well for this long"
        " starts at `retry_seconds` again.",
    ),
    cfg.FloatOpt(
        "beat_seconds",
        mutable=True,
        default=900.0,
        min=0.0,
        max=86400.0,
        help="How long one beat of a singleton may take that sets no limit of its own, in seconds; 0: any"
        " time. A beat that takes longer hangs, which is a fault as any other: `engine singletons show` tells"
        " where it waited. The default is far above what the shipped ones need.",
    ),
    cfg.IntOpt(
        "yield_after_failures",
        mutable=True,
        default=3,
        min=1,
        help="After so many failures in a row here a singleton yields: every other engine that has it comes"
        " before this one for `yield_seconds`. Fewer would move it at one bad answer of the database.",
    ),
    cfg.FloatOpt(
        "yield_seconds",
        mutable=True,
        default=300.0,
        min=0.0,
        max=86400.0,
        help="How long a singleton yields to other engines after `yield_after_failures`, in seconds; long"
        " enough for somebody to look, short enough to come back by itself.",
    ),
]
