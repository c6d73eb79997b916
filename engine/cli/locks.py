"""`engine locks list|show|release`: who holds what, and taking it away. An id or a key names a lock."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from cliff.command import Command
from cliff.lister import Lister
from cliff.show import ShowOne

from engine.cli.client import add_api_options, open_api
from engine.cli.columns import one, table
from engine.errors import InvalidInput

COLUMNS = ("keys", "lifetime", "engine", "command", "user", "since", "reason", "token", "id")
NARROW = ("keys", "lifetime", "engine", "user", "since", "reason", "id")
"""What fits a terminal; ask for the others with -c."""


class LocksList(Lister):
    """List the locks that are held now."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        parser.add_argument("--key", metavar="KEY", help="only those that hold this key, such as vm:42")
        parser.add_argument("--limit", type=int, metavar="N", help="at most this many (default: all)")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        output = parsed_args.formatter
        with open_api(parsed_args) as api:
            locks = list(
                api.pages("/v1/locks", "locks", limit=parsed_args.limit, params={"key": parsed_args.key})
            )
        narrow = output == "table" and not parsed_args.columns
        shown = [for_people(lock) for lock in locks] if output == "table" else locks
        return table(shown, NARROW if narrow else COLUMNS, output=output, times=("since",))


class LocksShow(ShowOne):
    """Show one lock: who holds it, and who waits."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("lock", help="id of the lock, or a key that it holds")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            lock = api.get(path_of(parsed_args.lock))
        output = parsed_args.formatter
        return one(for_people(lock) if output == "table" else lock, output=output, times=("since",))


class LocksRelease(Command):
    """Take a lock away from its holder. What it was doing is fenced off at once, and stays half done: a
    command ends or asks for an operator. Only for locks that will not go by themselves."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("lock", help="id of the lock, or a key that it holds")
        parser.add_argument("--yes", action="store_true", help="really do it")
        parser.add_argument("--reason", metavar="TEXT", help="why, for the audit event")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        with open_api(parsed_args) as api:
            lock = for_people(api.get(path_of(parsed_args.lock)))
            who = f"{lock['keys']}, held by {lock['command'] or 'a task'} on {lock['engine']}"
            if not parsed_args.yes:
                raise InvalidInput(f"{who}: nothing was released; add --yes to take it away from there")
            body = {"confirm": True} | ({"reason": parsed_args.reason} if parsed_args.reason else {})
            api.post(f"{path_of(lock['id'])}/release", body)
        self.app.stdout.write(f"released {who}\n")


def for_people(lock: Mapping[str, Any]) -> dict[str, Any]:
    """`vm:1, host:2 (shared)`."""
    keys = [one["key"] + (" (shared)" if one["mode"] == "shared" else "") for one in lock["keys"]]
    return {**lock, "keys": ", ".join(keys)}


def path_of(lock: str) -> str:
    """Where the API has the lock with this id or key."""
    return f"/v1/locks/{quote(lock, safe='')}"
