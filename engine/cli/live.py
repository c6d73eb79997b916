"""What the engines say themselves, ahead of the database: `engine hosts show --live`, `engine members
tasks`, `engine status --live`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from cliff.lister import Lister

from engine.cli.client import add_api_options, open_api
from engine.cli.columns import one, table
from engine.cli.hosts import HostsShow
from engine.cli.status import Status

TASKS = ("engine", "kind", "name", "about", "since", "detail")


class LiveHostsShow(HostsShow):
    """Show one host; with --live as the engine that watches it sees it at this moment."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--live", action="store_true", help="ask the engine that watches it, not the database"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        if not parsed_args.live:
            return super().take_action(parsed_args)
        with open_api(parsed_args) as api:
            host = api.get(f"/v1/hosts/{quote(parsed_args.host, safe='')}/live")
        return one(host, output=parsed_args.formatter)


class MembersTasks(Lister):
    """List what each engine is doing now: commands, calls, singletons."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        parser.add_argument("--engine", metavar="NAME", help="only of this engine")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            found = api.get("/v1/members/tasks")
        for error in found["errors"]:
            self.app.stderr.write(f"{error['engine']}: {error['error']}\n")
        tasks = [task for task in found["tasks"] if parsed_args.engine in (None, task["engine"])]
        return table(tasks, TASKS, output=parsed_args.formatter, times=("since",))


class LiveStatus(Status):
    """Show the engines, what each owns, the hosts by status and the latest events."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--live", action="store_true", help="ask every engine for its numbers of this moment"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        columns, data = super().take_action(parsed_args)
        if not parsed_args.live:
            return columns, data
        with open_api(parsed_args) as api:
            live = api.get("/v1/statistics")
        return (*columns, "live"), (*data, live)

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Sequence[Any]
    ) -> int:
        status: int = super().produce_output(parsed_args, column_names, data)
        if parsed_args.live and parsed_args.formatter == "table" and not parsed_args.columns:
            live = dict(zip(column_names, data, strict=True))["live"]
            self.app.stdout.write("\n" + "\n".join(numbers(live)) + "\n")
        return status


def numbers(live: Mapping[str, Any]) -> list[str]:
    """A line for each number, a column for each engine."""
    engines: Mapping[str, Mapping[str, float]] = live["engines"]
    names = sorted({name for found in engines.values() for name in found})
    rows = [("NOW", *engines, "all")]
    for name in names:
        values = [found.get(name) for found in (*engines.values(), live["total"])]
        rows.append((name, *("-" if value is None else f"{value:.4g}" for value in values)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    return [line.rstrip() for line in lines] + [f"{e['engine']}: {e['error']}" for e in live["errors"]]
