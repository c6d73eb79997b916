"""`engine hosts list|show|add|remove`: the fleet. A host is named by its name or its id."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from cliff.command import Command
from cliff.lister import Lister
from cliff.show import ShowOne

from engine.cli.client import add_api_options, open_api
from engine.cli.columns import one, table

COLUMNS = ("name", "status", "owner", "shard", "address", "port", "status_since", "reported_at", "id")
NARROW = COLUMNS[:-2]
"""What fits a terminal; ask for the others with -c."""

TIMES = ("status_since", "reported_at", "created_at")

DEFAULT_PORT = 54321
"""VDSM's."""


class HostsList(Lister):
    """List the hosts."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        parser.add_argument(
            "--status",
            metavar="STATUS",
            action="append",
            help="only those in this status (up, connecting, ...); may be repeated",
        )
        parser.add_argument(
            "--name", metavar="NAME", help="only those whose name begins so, or is like this: 'rack1-*-db?'"
        )
        parser.add_argument("--limit", type=int, metavar="N", help="at most this many (default: all)")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        params = {"status": parsed_args.status, "name": parsed_args.name}
        with open_api(parsed_args) as api:
            hosts = list(api.pages("/v1/hosts", "hosts", limit=parsed_args.limit, params=params))
        narrow = parsed_args.formatter == "table" and not parsed_args.columns
        return table(hosts, NARROW if narrow else COLUMNS, output=parsed_args.formatter, times=TIMES)


class HostsShow(ShowOne):
    """Show one host."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("host", help="name or id of the host")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            host = api.get(path_of(parsed_args.host))
        return one(host, output=parsed_args.formatter, times=TIMES)


class HostsAdd(ShowOne):
    """Add a host. An engine takes it in charge by itself; see `engine hosts show`."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", help="name of the host, unique")
        parser.add_argument("address", help="DNS name or IP address of its agent")
        parser.add_argument(
            "--port",
            type=int,
            default=DEFAULT_PORT,
            metavar="N",
            help=f"port of its agent (default: {DEFAULT_PORT})",
        )
        parser.add_argument("--driver", default="vdsm", help="kind of agent (default: vdsm)")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        asked = {name: getattr(parsed_args, name) for name in ("name", "address", "port", "driver")}
        with open_api(parsed_args) as api:
            host = api.post("/v1/hosts", asked)
        return one(host, output=parsed_args.formatter, times=TIMES)


class HostsRemove(Command):
    """Remove hosts: they are no longer monitored. Nothing is done to the hosts themselves."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("host", nargs="+", help="name or id of the host")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        with open_api(parsed_args) as api:
            # All are found before the first is removed, so that a typing error removes nothing.
            found = [api.get(path_of(host)) for host in parsed_args.host]
            for host in found:
                api.delete(path_of(host["id"]))
                self.app.stdout.write(f"removed {host['name']} ({host['id']})\n")


def path_of(host: str) -> str:
    """Where the API has the host with this id or name."""
    return f"/v1/hosts/{quote(host, safe='')}"
