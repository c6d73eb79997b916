"""`engine clusters list|show|add|remove`: groups of hosts."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from cliff.command import Command
from cliff.lister import Lister
from cliff.show import ShowOne

from engine.cli.actions import path_to
from engine.cli.client import add_api_options, open_api
from engine.cli.columns import one, table

COLUMNS = ("name", "policy", "memory_percent", "cpu_percent", "fencing", "balancing", "id")
TIMES = ("created_at",)


class ClustersList(Lister):
    """List the host clusters."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            clusters = list(api.pages("/v1/clusters", "clusters"))
        return table(clusters, COLUMNS, output=parsed_args.formatter, times=TIMES)


class ClustersShow(ShowOne):
    """Show one host cluster."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("cluster", help="name or id of the host cluster")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            cluster = api.get(path_to("clusters", parsed_args.cluster))
        return one(cluster, output=parsed_args.formatter, times=TIMES)


class ClustersAdd(ShowOne):
    """Add a host cluster."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", help="name of the host cluster, unique")
        parser.add_argument(
            "--policy", choices=("spread", "pack"), help="how VMs are placed (default: spread)"
        )
        parser.add_argument("--memory-percent", type=int, metavar="N", help="memory promised (default: 100)")
        parser.add_argument("--cpu-percent", type=int, metavar="N", help="processors (default: 1000)")
        parser.add_argument(
            "--no-fencing",
            dest="fencing",
            action="store_false",
            default=None,
            help="never switch a host off because it does not answer",
        )
        parser.add_argument(
            "--balancing",
            choices=("none", "even", "power_saving"),
            help="how running VMs are moved for the sake of load (default: none)",
        )
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        names = ("name", "policy", "memory_percent", "cpu_percent", "fencing", "balancing")
        asked = {name: value for name in names if (value := getattr(parsed_args, name)) is not None}
        with open_api(parsed_args) as api:
            cluster = api.post("/v1/clusters", asked)
        return one(cluster, output=parsed_args.formatter, times=TIMES)


class ClustersRemove(Command):
    """Remove a host cluster that has neither hosts nor VMs."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("cluster", help="name or id of the host cluster")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        with open_api(parsed_args) as api:
            cluster = api.get(path_to("clusters", parsed_args.cluster))
            api.delete(path_to("clusters", cluster["id"]))
        self.app.stdout.write(f"removed {cluster['name']} ({cluster['id']})\n")
