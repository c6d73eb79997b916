"""`engine shards list` and `engine shards show`: who owns which share of the hosts."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from cliff.lister import Lister
from cliff.show import ShowOne

from engine.cli.client import add_api_options, open_api
from engine.cli.columns import one, table

COLUMNS = ("shard", "owner", "epoch", "since")
TIMES = ("since",)


class ShardsList(Lister):
    """List the shards and their owners."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        parser.add_argument("--owner", metavar="ENGINE", help="only those that this engine owns")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            shards = list(api.pages("/v1/shards", "shards", params={"owner": parsed_args.owner}))
        return table(shards, COLUMNS, output=parsed_args.formatter, times=TIMES)


class ShardsShow(ShowOne):
    """Show one shard."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("shard", type=int, help="number of the shard")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            shard = api.get(f"/v1/shards/{parsed_args.shard}")
        return one(shard, output=parsed_args.formatter, times=TIMES)
