"""`[sharding]`: how hosts are divided between the engines."""

from __future__ import annotations

from oslo_config import cfg

GROUP = "sharding"

OPTS = [
    cfg.IntOpt(
        "shards",
        default=256,
        min=1,
        max=4096,
        help="Number of shards, fixed for a cluster when it is made; an engine that differs is refused."
        " More shards divide more evenly, and cost one ZooKeeper node and one row each.",
    ),
    cfg.StrOpt(
        "partitioner",
        default="cooperative",
        help="Which plugin of the namespace engine.partitioners divides the shards: `cooperative`, or"
        " `kazoo` (kazoo's SetPartitioner, which stops everything for seconds at each change).",
    ),
    cfg.FloatOpt(
        "join_debounce_seconds",
        mutable=True,
        default=1.0,
        min=0.0,
        max=60.0,
        help="How long to wait for further engines before hosts move to one that joined.",
    ),
    cfg.FloatOpt(
        "handover_seconds",
        mutable=True,
        default=5.0,
        min=0.1,
        max=120.0,
        help="How long work on a shard may take to end before the shard is handed over all the same.",
    ),
    cfg.FloatOpt(
        "untaken_seconds",
        mutable=True,
        default=3.0,
        min=0.5,
        max=60.0,
        help="A shard that the engine chosen for it has not taken in this time goes to the next one.",
    ),
]
