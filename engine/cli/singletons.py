"""`engine singletons list`: the duties of which there is one in the cluster, and who has them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from cliff.lister import Lister

from engine.cli.client import add_api_options, open_api
from engine.cli.columns import table

COLUMNS = ("name", "leader", "since", "candidates")


class SingletonsList(Lister):
    """List the singletons, who leads each, and who waits in line behind."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            singletons = list(api.pages("/v1/singletons", "singletons"))
        return table(singletons, COLUMNS, output=parsed_args.formatter, times=("since",))
