"""`[plugins]`: where plugins may come from."""

from __future__ import annotations

from oslo_config import cfg

GROUP = "plugins"
LOCAL = ("directory",)
"""It belongs to one machine: the cluster's configuration never sets it."""

OPTS = [
    cfg.StrOpt(
        "directory",
        default="/var/lib/engine/plugins",
        help="Directory of drop-in plugins: what `pip install --target` put there, and single files that say"
        " what they offer. Used when it exists and only its owner (the engine's user, or root) may write into"
        " it. `engine plugins reload` has the engines look again.",
    ),
    cfg.ListOpt(
        "allow",
        default=["*"],
        help="Distributions whose plugins are loaded, and names of files in `directory`; `*` stands for all."
        " For production name them, `engine-ha` among them: what is installed by accident then does nothing.",
    ),
]
