"""`engine members list`: the engines that share the cluster now."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from cliff.lister import Lister

from engine.cli.client import add_api_options, open_api
from engine.cli.columns import table

COLUMNS = ("engine", "state", "shards_owned", "address", "pid", "version", "weight", "db", "started")


class MembersList(Lister):
    """List the engines in the cluster."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            members = list(api.pages("/v1/members", "members"))
        return table(members, COLUMNS, output=parsed_args.formatter, times=("started",))
