"""`engine config get`: the configuration that the cluster shares, as it stands in ZooKeeper."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from cliff.lister import Lister

from engine.cli.client import add_api_options, open_api
from engine.cli.columns import table
from engine.errors import InvalidInput

COLUMNS = ("group", "option", "value", "version", "changed")


class ConfigGet(Lister):
    """Show the options that the cluster sets, or one of them. Secrets are not shown.

    What a local file says hides the cluster's value on that machine.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        parser.add_argument("option", nargs="?", metavar="GROUP.OPTION", help="only this one")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        path = "/v1/config" if parsed_args.option is None else path_of(parsed_args.option)
        with open_api(parsed_args) as api:
            options = list(api.pages(path, "options")) if parsed_args.option is None else [api.get(path)]
        return table(options, COLUMNS, output=parsed_args.formatter, times=("changed",))


def path_of(option: str) -> str:
    """Where the API has `group.option`. Raises `InvalidInput` for another form."""
    group, dot, name = option.rpartition(".")
    if not (group and dot and name):
        raise InvalidInput(
            f"{option!r} should be GROUP.OPTION, for example singleton_event_retention.keep_days"
        )
    return f"/v1/config/{quote(group, safe='')}/{quote(name, safe='')}"
