"""`engine singletons list|show|move|pause|resume|run-now`: the recurring duties of the cluster."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import quote

from cliff.command import Command
from cliff.lister import Lister
from cliff.show import ShowOne

from engine.cli.client import add_api_options, open_api
from engine.cli.columns import local_time, one, table

COLUMNS = ("name", "scope", "state", "leader", "since", "candidates", "preferred", "failures")
NARROW = ("name", "scope", "state", "leader", "since", "candidates")
"""What fits a terminal; ask for the others with -c."""


class SingletonsList(Lister):
    """List the singletons, who leads each, and who waits in line behind."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        output = parsed_args.formatter
        with open_api(parsed_args) as api:
            singletons = list(api.pages("/v1/singletons", "singletons"))
        narrow = output == "table" and not parsed_args.columns
        return table(singletons, NARROW if narrow else COLUMNS, output=output, times=("since",))


class SingletonsShow(ShowOne):
    """Show one singleton: who leads it, how it fares on each engine, its last fault with the traceback."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("singleton", help="its name")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            found = api.get(path_of(parsed_args.singleton))
        output = parsed_args.formatter
        return one(
            for_people(found) if output == "table" else found, output=output, times=("since", "ordered_at")
        )


class _Action(Command):
    """Asks for `action` on one singleton."""

    action: ClassVar[str]
    done: ClassVar[str] = ""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("singleton", help="its name")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        with open_api(parsed_args) as api:
            api.post(f"{path_of(parsed_args.singleton)}/{self.action}", self.body(parsed_args))
        self.app.stdout.write(f"{self.told(parsed_args)}\n")

    def body(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        return {}

    def told(self, parsed_args: argparse.Namespace) -> str:
        return f"{parsed_args.singleton} {self.done}"


class SingletonsPause(_Action):
    """Stop a singleton everywhere, each where it has finished a beat, until it is resumed."""

    action = "pause"
    done = "is paused after the beat that may be under way"


class SingletonsResume(_Action):
    """Have a paused singleton run again."""

    action = "resume"
    done = "runs again"


class SingletonsRunNow(_Action):
    """Have a singleton's next beat come at once; where it rests after a failure, it tries again."""

    action = "run-now"
    done = "was asked to run"


class SingletonsMove(_Action):
    """Prefer an engine for a singleton: it leads whenever it is there. Without ENGINE nobody is preferred
    any more, and the spread over the engines decides."""

    action = "move"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("engine", metavar="ENGINE", nargs="?", help="who is to lead it")
        return parser

    def told(self, parsed_args: argparse.Namespace) -> str:
        if parsed_args.engine:
            return f"{parsed_args.engine} is to lead {parsed_args.singleton}, after the beat under way"
        return f"{parsed_args.singleton} goes where the spread has it"

    def body(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        return {"engine": parsed_args.engine} if parsed_args.engine else {}


def path_of(singleton: str) -> str:
    """Where the API has it."""
    return f"/v1/singletons/{quote(singleton, safe='')}"


def for_people(found: Mapping[str, Any]) -> dict[str, Any]:
    """One row an engine, then the traceback of the latest fault."""
    engines = found["engines"]
    shown = {name: value for name, value in found.items() if name != "engines"}
    for engine in engines:
        shown[f"on {engine['engine']}"] = _fares(engine)
    faults = [engine for engine in engines if engine["fault"]]
    if faults:
        latest = max(faults, key=lambda engine: engine["failed_at"] or engine["since"])
        shown["last fault"] = f"on {latest['engine']}: {latest['fault']}"
        shown["traceback"] = latest["details"].rstrip() or None
    return shown


def _fares(engine: Mapping[str, Any]) -> str:
    parts = [f"{engine['state']} since {local_time(engine['since'])}"]
    if engine["shards"] is not None:
        parts.append(f"on {engine['shards']} shards")
    if engine["token"] is not None:
        parts.append(f"token {engine['token']}")
    if engine["failures"]:
        parts.append(f"{engine['failures']} failures in a row")
    if engine["yielding"]:
        parts.append("yields to the others")
    if engine["tasks_left"]:
        parts.append(f"{engine['tasks_left']} tasks left behind")
    return ", ".join(parts)
