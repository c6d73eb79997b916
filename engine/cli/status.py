"""`engine status`: the whole cluster on one screen, or as one document with `-f json`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cliff.show import ShowOne

from engine.cli.client import add_api_options, open_api
from engine.cli.columns import local_time

EVENTS_SHOWN = 8


class Status(ShowOne):
    """Show the engines, what each owns, the hosts by status and the latest events."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            status = {"api": api.endpoint.api_url, **api.get("/v1/status"), "stale_since": api.stale_since}
        return tuple(status), tuple(status.values())

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Sequence[Any]
    ) -> int:
        if parsed_args.formatter != "table" or parsed_args.columns:
            return super().produce_output(parsed_args, column_names, data)
        self.app.stdout.write(screen(dict(zip(column_names, data, strict=True))))
        return 0


def screen(status: Mapping[str, Any]) -> str:
    """The status as a person reads it."""
    return "\n".join([*_cluster(status), "", *_engines(status), "", *_events(status)]) + "\n"


def _cluster(status: Mapping[str, Any]) -> list[str]:
    hosts: Mapping[str, int] = status["hosts"]
    counts = sorted(hosts.items(), key=lambda item: (-item[1], item[0]))
    shards = status["shards"]
    free = shards["total"] - shards["owned"]
    return [
        f"API      {status['api']}",
        f"Hosts    {sum(hosts.values())}{': ' if counts else ''}"
        + ", ".join(f"{number} {name}" for name, number in counts),
        f"Shards   {shards['owned']} of {shards['total']} owned"
        + (f", {free} WITHOUT OWNER" if free else ""),
    ]


def _engines(status: Mapping[str, Any]) -> list[str]:
    members: Sequence[Mapping[str, Any]] = status["members"]
    if not members:
        return ["No engine is up. `engine up` starts a whole cluster, `engine node` one engine."]
    columns = {
        "engine": "ENGINE",
        "state": "STATE",
        "shards_owned": "SHARDS",
        "pid": "PID",
        "started": "STARTED",
    }
    rows = [tuple(columns.values())]
    for member in members:
        values = dict(member, started=local_time(member["started"]))
        rows.append(tuple(str(values[name]) for name in columns))
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _events(status: Mapping[str, Any]) -> list[str]:
    events = sorted(status["events"], key=lambda event: int(event["id"]))[-EVENTS_SHOWN:]
    lines = [f"{local_time(event['at'])}  {event['message']}" for event in events]
    return ["LATEST EVENTS", *lines] if lines else ["No events yet."]
