"""`engine commands submit`: any command that is installed, by its type."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from cliff.show import ShowOne

from engine.cli.actions import act, add_wait_option, shown
from engine.cli.client import add_api_options, open_api
from engine.cli.columns import one


class CommandsSubmit(ShowOne):
    """Ask for a command by its type; for those that have no words of their own here."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("type", help="the name under which the command is installed, like run_vm")
        parser.add_argument(
            "arguments",
            nargs="*",
            metavar="NAME=VALUE",
            type=_argument,
            help="its arguments; a value that is JSON is taken as such (true, 3, [1,2]), else as a text",
        )
        add_wait_option(parser)
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        body = {"type": parsed_args.type, "arguments": dict(parsed_args.arguments)}
        with open_api(parsed_args) as api:
            command = act(api, "/v1/commands", body, wait=parsed_args.wait)
        return one(shown(command), output=parsed_args.formatter, times=("created_at", "ended_at"))


def _argument(spelled: str) -> tuple[str, Any]:
    name, equals, value = spelled.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{spelled!r} is not NAME=VALUE")
    try:
        return name, orjson.loads(value)
    except orjson.JSONDecodeError:
        return name, value
