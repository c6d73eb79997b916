"""`[engine]`: who this engine is, and which plugins it loads."""

from __future__ import annotations

import socket

from oslo_config import cfg

GROUP = "engine"
LOCAL = ("name", "address", "metrics_port", "metrics_address", "shared_values_file")
"""These belong to one machine: the cluster's configuration never sets them."""

OPTS = [
    cfg.StrOpt(
        "name",
        default=socket.gethostname(),
        sample_default="<host name>",
        regex=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        help="Name of this engine, unique in its cluster.",
    ),
    cfg.StrOpt(
        "address",
        default="127.0.0.1",
        sample_default="<address of this machine>",
        help="Address at which the other engines reach this one; shown in /members.",
    ),
    cfg.IntOpt(
        "weight",
        mutable=True,
        default=1,
        min=1,
        max=100,
        help="Share of the hosts and singletons that this engine takes, relative to the weights of others.",
    ),
    cfg.PortOpt(
        "metrics_port",
        help="Port on which this engine serves its own Prometheus metrics at /metrics: polls, lateness, lag"
        " of its loop, authority left. Not served by default; the API serves those of the cluster.",
    ),
    cfg.StrOpt(
        "metrics_address",
        default="127.0.0.1",
        help="Address for `metrics_port`. Whoever reaches it reads the metrics without logging in.",
    ),
    cfg.StrOpt(
        "shared_values_file",
        help="Where the values that the cluster sets are kept for this process (0600; its name is added)."
        " They are read at the start, hide those of the other files, and serve when ZooKeeper is away."
        " Without it in $CACHE_DIRECTORY, $XDG_CACHE_HOME/engine or ~/.cache/engine, whichever is set first.",
    ),
    cfg.ListOpt(
        "drivers",
        default=["vdsm"],
        help="Host drivers to load, from the namespace engine.drivers.",
    ),
]
