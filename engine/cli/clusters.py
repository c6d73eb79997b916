"""`engine clusters list|show|add|update|remove`: groups of hosts."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from engine.cli.entities import AddEntity, ListEntities, Noun, RemoveEntities, ShowEntity, UpdateEntity

COLUMNS = ("name", "policy", "memory_percent", "cpu_percent", "fencing", "balancing", "id")
CLUSTERS = Noun(plural="clusters", word="cluster", called="host cluster", columns=COLUMNS, narrow=COLUMNS)
_FIELDS = ("description", "policy", "memory_percent", "cpu_percent", "fencing", "balancing")


def add_fields(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--description", metavar="TEXT", help="what it is for")
    add("--policy", choices=("spread", "pack"), help="how VMs are placed (a new one: spread)")
    add("--memory-percent", type=int, metavar="N", help="memory promised to VMs (a new one: 100)")
    add("--cpu-percent", type=int, metavar="N", help="processors promised to VMs (a new one: 1000)")
    add(
        "--fencing",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="switch hosts off that do not answer, or never (a new one: do)",
    )
    add(
        "--balancing",
        choices=("none", "even", "power_saving"),
        help="how running VMs are moved for the sake of load (a new one: none)",
    )


def fields(parsed_args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(parsed_args, name) for name in _FIELDS}


class ClustersList(ListEntities):
    """List the host clusters."""

    noun = CLUSTERS


class ClustersShow(ShowEntity):
    """Show one host cluster."""

    noun = CLUSTERS


class ClustersAdd(AddEntity):
    """Add a host cluster."""

    noun = CLUSTERS

    def add_fields(self, parser: argparse.ArgumentParser) -> None:
        add_fields(parser)

    def asked(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        return fields(parsed_args)


class ClustersUpdate(UpdateEntity):
    """Change a host cluster; what is not named stays as it is."""

    noun = CLUSTERS

    def add_fields(self, parser: argparse.ArgumentParser) -> None:
        add_fields(parser)

    def changes(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        return fields(parsed_args)


class ClustersRemove(RemoveEntities):
    """Remove host clusters that have neither hosts nor VMs."""

    noun = CLUSTERS
