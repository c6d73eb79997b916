"""`engine events list [--follow]`: what happened, the newest last, as a log reads."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cliff.lister import Lister

from engine.cli.actions import path_to
from engine.cli.client import Api, add_api_options, open_api
from engine.cli.columns import local_time, table
from engine.cli.streams import follow
from engine.errors import InvalidInput, NotFound

EVENTS = "/v1/events"
COLUMNS = ("id", "at", "kind", "message", "engine", "host_id")
NARROW = COLUMNS[:-1]
DEFAULT_LIMIT = 50
INTERRUPTED = 130


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
        parser.add_argument(
            "--kind",
            metavar="KIND",
            action="append",
            help="only this kind (host_status, ...); may be repeated",
        )
        parser.add_argument("--host", metavar="HOST", help="only those about the host with this name or id")
        parser.add_argument(
            "--follow",
            action="store_true",
            help="go on with what happens, until Ctrl-C: a line an event, or with -f json an object a line",
        )
        add_api_options(parser)
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        if not parsed_args.follow:
            return int(super().run(parsed_args))
        with contextlib.suppress(BrokenPipeError), ctrl_c_ends_at_once():  # `... --follow | head`
            self._follow(parsed_args)
        return 0

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            events = latest(api, filters(api, parsed_args), parsed_args.limit)
        narrow = parsed_args.formatter == "table" and not parsed_args.columns
        return table(events, NARROW if narrow else COLUMNS, output=parsed_args.formatter, times=("at",))

    def _follow(self, parsed_args: argparse.Namespace) -> None:
        if parsed_args.formatter not in ("table", "json") or parsed_args.columns:
            raise InvalidInput("--follow prints lines: it goes with -f table or -f json, without -c")
        shown = in_a_line if parsed_args.formatter == "table" else json.dumps
        with open_api(parsed_args) as api:
            params = filters(api, parsed_args)
            # Read before the list, so that what happens in between is in one of the two, or in both.
            cursor = api.get(EVENTS, {"limit": 1})["cursor"]
            events = latest(api, params, parsed_args.limit)
            for event in events:
                print(shown(event), file=self.app.stdout, flush=True)
            told = {event["id"] for event in events}
            for event in follow(api, EVENTS, after=cursor, params=params):
                if event["id"] not in told:
                    print(shown(event), file=self.app.stdout, flush=True)


@contextlib.contextmanager
def ctrl_c_ends_at_once() -> Iterator[None]:
    """Where all is printed line by line, and nothing has to be closed: a `KeyboardInterrupt` that is raised
    in a callback of the garbage collector is lost, and with it the user's only wish."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored, as by a shell's background jobs
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def filters(api: Api, parsed_args: argparse.Namespace) -> dict[str, Any]:
    host = host_id(api, parsed_args.host) if parsed_args.host else None
    return {"kind": parsed_args.kind, "host": host}


def latest(api: Api, params: Mapping[str, Any], limit: int) -> list[dict[str, Any]]:
    """The newest last."""
    events = list(api.pages(EVENTS, "events", limit=limit, params=params))
    return sorted(events, key=lambda event: int(event["id"]))


def in_a_line(event: Mapping[str, Any]) -> str:
    by = f"  ({event['engine']})" if event["engine"] else ""
    return f"{local_time(event['at'])}  {event['kind']:<20}  {event['message']}{by}"


def host_id(api: Api, host: str) -> str:
    """The id of the host with this id or name; what is not found may be the id of a removed host."""
    try:
        found: str = api.get(path_to("hosts", host))["id"]
    except NotFound:
        return host
    return found
