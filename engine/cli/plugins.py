"""`engine plugins list|new|reload`: what is installed, writing one, and having the engines look again."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cliff.command import Command
from cliff.lister import Lister

from engine.cli.client import add_api_options, open_api
from engine.cli.columns import table
from engine.cli.restarting import Restarting
from engine.cli.scaffold import KINDS, write_package

COLUMNS = ("kind", "name", "distribution", "version", "runs_on", "refused", "options", "source")
NARROW = ("kind", "name", "distribution", "version", "runs_on", "refused")


class PluginsList(Lister):
    """List the plugins that are installed where the API runs: where each runs, and why one does not."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        parser.add_argument("--kind", help="only these: command, driver, job, partitioner, singleton, task")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            plugins = api.get("/v1/plugins")["plugins"]
        if parsed_args.kind:
            plugins = [plugin for plugin in plugins if plugin["kind"] == parsed_args.kind]
        narrow = parsed_args.formatter == "table" and not parsed_args.columns
        return table(plugins, NARROW if narrow else COLUMNS, output=parsed_args.formatter)


class PluginsReload(Command):
    """Have all look again for plugins: the API's workers at once, then one engine after the other."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--timeout", type=float, default=60.0, metavar="SECONDS", help="for each to come back (60)"
        )
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        with open_api(parsed_args) as api:
            restarting = Restarting(api, self.app.stdout.write, timeout_seconds=parsed_args.timeout)
            restarting.run(restarting.everybody())
            api.post("/v1/plugins/reload", {})
        self.app.stdout.write("the API's workers start again\n")


class PluginsNew(Command):
    """Write a package with one plugin and its passing test, ready to be installed."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("kind", choices=sorted(KINDS))
        parser.add_argument("name", help="lower-case letters, digits and _")
        parser.add_argument("--directory", default=".", help="where the package's directory is made (here)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        made = write_package(parsed_args.kind, parsed_args.name, Path(parsed_args.directory))
        say = self.app.stdout.write
        say(f"{made} is written. Try it, and install it where each engine and the API run:\n")
        say(f"  python -m pytest {made}\n")
        say(f"  pip install {made}          # or: pip install --no-deps --target DIRECTORY {made}\n")
        say("  engine plugins reload\n")
