"""Options for the hosts of one cluster of hosts: people name the cluster, ZooKeeper has its id.

`hosts@paris.tick_seconds` is kept as `hosts@<id>/tick_seconds`, so a cluster that is renamed keeps what
is set for it. Used by the resources of `/v1/config`.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import InvalidInput


class ClusterNames:
    """`names`: those of all host clusters by their ids; empty where no option at hand is for one of them."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._ids = {name: id for id, name in names.items()}

    def kept(self, option: str) -> str:
        """An option, or a group of options, as ZooKeeper has it. Raises `InvalidInput`: no such cluster."""
        base, at, rest = option.partition("@")
        if not at:
            return option
        divider = "/" if "/" in rest else "."
        cluster, dot, name = rest.rpartition(divider) if divider in rest else (rest, "", "")
        if rest in self._ids or rest in self._names:  # a group
            cluster, dot, name = rest, "", ""
        if cluster not in self._names and cluster not in self._ids:
            there = ", ".join(sorted(self._ids)) or "none"
            raise InvalidInput(
                f"there is no cluster of hosts {cluster!r}: there are {there}",
                fields={option: "names no cluster of hosts"},
            )
        return f"{base}@{self._ids.get(cluster, cluster)}{dot}{name}"

    def told(self, text: str) -> str:
        """With the names of clusters in the place of their ids."""
        for id, name in self._names.items():
            text = text.replace(f"@{id}", f"@{name}")
        return text
