"""`engine commands list|show|watch|cancel|resolve`: what was asked for, and how far it is."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from cliff.lister import Lister
from cliff.show import ShowOne

from engine.cli.client import Api, add_api_options, open_api
from engine.cli.columns import one, table
from engine.errors import Conflict

COLUMNS = ("id", "type", "state", "percent", "entity", "engine", "error", "created_at", "ended_at")
NARROW = COLUMNS[:-2]
TIMES = ("created_at", "started_at", "ended_at", "intended_at")

OVER = ("succeeded", "failed", "compensated", "cancelled", "needs_operator")


def path_of(command: str, action: str = "") -> str:
    """Where the API has the command with this id."""
    return f"/v1/commands/{quote(command, safe='')}{action}"


class CommandsList(Lister):
    """List the commands, the newest first."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        add = parser.add_argument
        add("--state", action="append", metavar="STATE", help="only those in this state; may be repeated")
        add("--type", action="append", metavar="TYPE", help="only those of this type; may be repeated")
        add("--entity", metavar="ID", help="only those about the host or VM with this id")
        add("--parent", metavar="ID", help="only the children of this command")
        add("--oldest-first", action="store_true", help="the oldest first (default: the newest)")
        add("--limit", type=int, default=50, metavar="N", help="at most this many (default: 50)")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        params = {name: getattr(parsed_args, name) for name in ("state", "type", "entity", "parent")}
        params["sort"] = "created_at" if parsed_args.oldest_first else None
        with open_api(parsed_args) as api:
            found = api.pages("/v1/commands", "commands", limit=parsed_args.limit, params=params)
            commands = [{**each, "entity": _entity(each)} for each in found]
        narrow = parsed_args.formatter == "table" and not parsed_args.columns
        return table(commands, NARROW if narrow else COLUMNS, output=parsed_args.formatter, times=TIMES)


class _OfCommand(ShowOne):
    """About one command, by its id."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("command_id", metavar="command", help="id of the command")
        add_api_options(parser)
        return parser


class CommandsShow(_OfCommand):
    """Show one command with its steps."""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            command = api.get(path_of(parsed_args.command_id))
        if parsed_args.formatter == "table":
            command = {**command, "entity": _entity(command), "steps": _steps(command["steps"])}
        return one(command, output=parsed_args.formatter, times=TIMES)


class CommandsCancel(_OfCommand):
    """Have a command cancelled: what is under way ends first, then all is undone."""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            command = api.post(path_of(parsed_args.command_id, "/cancel"), {})
        return one(_brief(command), output=parsed_args.formatter, times=TIMES)


class CommandsResolve(_OfCommand):
    """Say what became of a step, where the engine cannot tell (a command that needs an operator)."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "outcome",
            choices=("happened", "not_happened", "abandon"),
            help="happened, not_happened: go on so; abandon: end it as it is, nothing is undone",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            path = path_of(parsed_args.command_id, "/resolve")
            command = api.post(path, {"outcome": parsed_args.outcome})
        return one(_brief(command), output=parsed_args.formatter, times=TIMES)


class CommandsWatch(_OfCommand):
    """Watch a command until it has ended. Exits with 5 unless it succeeded."""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            command = watch(api, parsed_args.command_id)
        if command["state"] != "succeeded":
            raise Conflict(
                f"{command['type']} {command['state']}: {command['error'] or 'no reason was given'}"
            )
        return one(_brief(command), output=parsed_args.formatter, times=TIMES)


def watch(api: Api, command_id: str) -> dict[str, Any]:
    """Follow a command on stderr; the command once it is over."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.fields[type]}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[told]}"),
    )
    command = api.get(path_of(command_id))
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:
        task = progress.add_task("", total=100, type=command["type"], told="")
        while True:
            told = f"{command['state']} {command['message']}"
            progress.update(task, completed=command["percent"], told=told)
            if command["state"] in OVER:
                return command
            command = api.get(path_of(command_id), {"wait": "0.5s"})


def _entity(command: Mapping[str, Any]) -> str:
    return f"{command['entity']['kind']} {command['entity']['id']}"


def _brief(command: Mapping[str, Any]) -> dict[str, Any]:
    return {name: command[name] for name in ("id", "type", "state", "percent", "message", "error")}


def _steps(steps: Sequence[Mapping[str, Any]]) -> str:
    """One line a step, for people."""
    lines = []
    for step in steps:
        again = f" (attempt {step['attempt']})" if step["attempt"] > 1 else ""
        where = f" on {step['host_id']}" if step["host_id"] else ""
        why = f": {step['error']}" if step["error"] else ""
        lines.append(f"{step['number']}. {step['name']}{again} {step['state']}{where}{why}")
    return "\n".join(lines)
