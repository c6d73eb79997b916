"""`engine events list`: what happened, the newest last, as a log reads."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from cliff.lister import Lister

from engine.cli.client import Api, add_api_options, open_api
from engine.cli.columns import table
from engine.cli.hosts import path_of
from engine.errors import NotFound

COLUMNS = ("id", "at", "kind", "message", "engine", "host_id")
NARROW = COLUMNS[:-1]
DEFAULT_LIMIT = 50


class EventsList(Lister):
    """List the latest events, the newest last."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        parser.add_argument(
            "--limit",
            type=int,
            default=DEFAULT_LIMIT,
            metavar="N",
            help=f"at most this many (default: {DEFAULT_LIMIT})",
        )
        parser.add_argument("--kind", metavar="KIND", help="only those of this kind (host_status, ...)")
        parser.add_argument("--host", metavar="HOST", help="only those about the host with this name or id")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            host = host_id(api, parsed_args.host) if parsed_args.host else None
            params = {"kind": parsed_args.kind, "host": host}
            events = list(api.pages("/v1/events", "events", limit=parsed_args.limit, params=params))
        events.sort(key=lambda event: int(event["id"]))
        narrow = parsed_args.formatter == "table" and not parsed_args.columns
        return table(events, NARROW if narrow else COLUMNS, output=parsed_args.formatter, times=("at",))


def host_id(api: Api, host: str) -> str:
    """The id of the host with this id or name; what is not found may be the id of a removed host."""
    try:
        found: str = api.get(path_of(host))["id"]
    except NotFound:
        return host
    return found
