"""`engine members ...`: the engines that share the cluster now, and starting them again."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from cliff.command import Command
from cliff.lister import Lister

from engine.cli.client import add_api_options, open_api
from engine.cli.columns import table
from engine.cli.restarting import Restarting
from engine.errors import InvalidInput

COLUMNS = ("engine", "state", "shards_owned", "address", "pid", "version", "weight", "db", "started")


class MembersList(Lister):
    """List the engines in the cluster."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        parser.add_argument("--state", choices=("up", "draining"), help="only those in this state")
        parser.add_argument(
            "--order-by",
            metavar="KEY",
            help="engine, state, started, shards_owned; the greatest first: =-KEY",
        )
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        params = {"state": parsed_args.state, "sort": parsed_args.order_by}
        with open_api(parsed_args) as api:
            members = list(api.pages("/v1/members", "members", params=params))
        return table(members, COLUMNS, output=parsed_args.formatter, times=("started",))


class MembersRestart(Command):
    """Have engines hand over all they have and start again, one after the other. No host is without an owner
    for longer than a handover takes; each is waited for until it is back and has its share."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("engines", nargs="*", metavar="ENGINE")
        parser.add_argument("--rolling", action="store_true", help="all engines of the cluster")
        parser.add_argument(
            "--timeout", type=float, default=60.0, metavar="SECONDS", help="for each to come back (60)"
        )
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        if bool(parsed_args.engines) == parsed_args.rolling:
            raise InvalidInput("name the engines to restart, or give --rolling for all of them")
        with open_api(parsed_args) as api:
            restarting = Restarting(api, self.app.stdout.write, timeout_seconds=parsed_args.timeout)
            restarting.run(parsed_args.engines or restarting.everybody())
