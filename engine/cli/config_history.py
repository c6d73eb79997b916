"""`engine config history|diff|rollback|export|import|validate`: over time, and as a file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cliff.command import Command
from cliff.lister import Lister

from engine.cli.client import add_api_options, open_api
from engine.cli.columns import table
from engine.cli.config import CHANGES, add_change_options, add_engine_option, change, values_of
from engine.errors import InvalidInput, NotFound

MASK = "***"


class ConfigHistory(Lister):
    """Who changed what, the newest first."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        parser.add_argument("--limit", type=int, metavar="N", default=50, help="at most this many (50)")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            revisions = list(api.pages("/v1/config/history", "revisions", limit=parsed_args.limit))
        if parsed_args.formatter == "table":
            for revision in revisions:
                revision["changes"] = "\n".join(
                    f"{c['option']}: {_text(c['old'])} -> {_text(c['new'])}" for c in revision["changes"]
                )
        columns = ("revision", "at", "user", "engine", "changes", "comment")
        return table(revisions, columns, output=parsed_args.formatter, times=("at",))


class ConfigDiff(Lister):
    """What has changed since a revision, taken together; without one, what the last change was."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        parser.add_argument("since", nargs="?", type=int, metavar="REVISION", help="compare with this one")
        parser.add_argument("until", nargs="?", type=int, metavar="REVISION", help="instead of the present")
        add_engine_option(parser)
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            known = list(api.pages("/v1/config/history", "revisions"))
        numbers = {revision["revision"] for revision in known}
        for number in (parsed_args.since, parsed_args.until):
            if number is not None and number not in numbers:
                raise NotFound(f"there is no revision {number}: see `engine config history`")
        ours = [revision["revision"] for revision in known if revision["engine"] == parsed_args.engine]
        until = parsed_args.until if parsed_args.until is not None else max(ours, default=0)
        since = parsed_args.since if parsed_args.since is not None else until - 1
        changed: dict[str, dict[str, Any]] = {}
        for revision in reversed(known):
            if since < revision["revision"] <= until and revision["engine"] == parsed_args.engine:
                for one in revision["changes"]:
                    changed.setdefault(one["option"], dict(one))["new"] = one["new"]
        rows = [row for row in changed.values() if row["old"] != row["new"] or row["old"] == MASK]
        return table(rows, CHANGES, output=parsed_args.formatter)


class ConfigRollback(Lister):
    """Put everything back to how it was right after a revision. The history goes on: this is a change too."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        parser.add_argument("revision", type=int)
        add_engine_option(parser)
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        body = {"revision": parsed_args.revision}
        if parsed_args.engine:
            body["engine"] = parsed_args.engine
        with open_api(parsed_args) as api:
            done = api.post("/v1/config/rollback", body)
        return table(done["changes"], CHANGES, output=parsed_args.formatter)


class ConfigExport(Command):
    """Write what the cluster sets as JSON, for `config import`. Secrets are left out."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("file", nargs="?", help="where to (default: standard output)")
        add_engine_option(parser)
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        with open_api(parsed_args) as api:
            found = values_of(api, parsed_args.engine)
        kept = {name: value for name, value in sorted(found.items()) if value != MASK}
        if left := sorted(found.keys() - kept.keys()):
            self.app.stderr.write(f"left out, as secrets: {', '.join(left)}\n")
        text = json.dumps(kept, indent=2, ensure_ascii=False) + "\n"
        if parsed_args.file:
            Path(parsed_args.file).write_text(text, encoding="utf-8")
        else:
            self.app.stdout.write(text)


class ConfigImport(Lister):
    """Set all that a file of `config export` says, in one change; what it does not name stays as it is."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        parser.add_argument("file", help="JSON: an object of GROUP.OPTION to value; - for standard input")
        add_change_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        return change(parsed_args, {"set": read_values(parsed_args.file)})


class ConfigValidate(Command):
    """Check a file as `config import` would, and change nothing."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("file", help="JSON: an object of GROUP.OPTION to value; - for standard input")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        with open_api(parsed_args) as api:
            body = {"set": read_values(parsed_args.file), "dry_run": True}
            valid = api.patch("/v1/config", body)["valid"]
        self.app.stdout.write(f"{len(valid)} options, all valid\n")


def read_values(file: str) -> dict[str, Any]:
    """Raises `InvalidInput` naming the file and what is wrong with it."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        values = json.loads(text)
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidInput(f"{file} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise InvalidInput(f"{file} should be an object of GROUP.OPTION to value")
    return values


def _text(value: Any) -> str:
    return "(not set)" if value is None else json.dumps(value, ensure_ascii=False)
