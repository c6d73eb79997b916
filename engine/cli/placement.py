"""`engine vms place`: where a virtual machine of some size would go now."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from cliff.show import ShowOne

from engine.cli.client import add_api_options, open_api
from engine.cli.columns import one


class VmsPlace(ShowOne):
    """Show the host that would take a virtual machine of this size; nothing is started."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--memory-mib", type=int, required=True, metavar="N", help="its memory")
        parser.add_argument("--cpus", type=int, default=1, metavar="N", help="its processors (default: 1)")
        parser.add_argument("--cluster", default="default", help="cluster of hosts (default: default)")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        wanted = {"memory_mib": parsed_args.memory_mib, "cpus": parsed_args.cpus}
        with open_api(parsed_args) as api:
            place = api.get(f"/v1/clusters/{quote(parsed_args.cluster, safe='')}/place", wanted)
        return one(place, output=parsed_args.formatter)
