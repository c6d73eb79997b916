"""`engine hosts list|show|add|update|remove`: the fleet. A host is named by its name or its id."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.cli.entities import (
    EMPTY,
    AddEntity,
    ListEntities,
    Noun,
    RemoveEntities,
    ShowEntity,
    UpdateEntity,
)
from engine.errors import InvalidInput

COLUMNS = ("name", "status", "owner", "shard", "address", "port", "status_since", "reported_at", "id")
HOSTS = Noun(
    plural="hosts",
    word="host",
    called="host",
    columns=COLUMNS,
    narrow=COLUMNS[:-2],
    times=("status_since", "reported_at", "created_at", "fenced_at"),
    sorted_by=("name", "address", "status", "created_at"),
)

DEFAULT_PORT = 54321
"""VDSM's."""


class HostsList(ListEntities):
    """List the hosts."""

    noun = HOSTS
    filters = ("status", "name", "cluster")

    def add_filters(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--status",
            metavar="STATUS",
            action="append",
            help="only those in this status (up, connecting, ...); may be repeated",
        )
        parser.add_argument(
            "--name", metavar="NAME", help="only those whose name begins so, or is like this: 'rack1-*-db?'"
        )
        parser.add_argument("--cluster", metavar="CLUSTER", help="only those of this host cluster")


class HostsShow(ShowEntity):
    """Show one host."""

    noun = HOSTS


class HostsAdd(AddEntity):
    """Add a host. An engine takes it in charge by itself; see `engine hosts show`.

    Its power management is given as a whole: kind, address, port, user and password.
    """

    noun = HOSTS

    def add_fields(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("address", help="DNS name or IP address of its agent")
        parser.add_argument(
            "--port",
            type=int,
            default=DEFAULT_PORT,
            metavar="N",
            help=f"port of its agent (default: {DEFAULT_PORT})",
        )
        parser.add_argument("--driver", default="vdsm", help="kind of agent (default: vdsm)")
        parser.add_argument("--cluster", metavar="CLUSTER", help="its host cluster (default: default)")
        _add_agent(parser)

    def asked(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        fields = {name: getattr(parsed_args, name) for name in ("address", "port", "driver", "cluster")}
        return {**fields, "power_management": _agent(parsed_args)}


class HostsUpdate(UpdateEntity):
    """Change a host; what is not named stays as it is.

    Its power management is given as a whole: kind, address, port, user and password.
    """

    noun = HOSTS

    def add_fields(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--address", help="DNS name or IP address of its agent")
        parser.add_argument("--port", type=int, metavar="N", help="port of its agent")
        parser.add_argument("--cluster", metavar="CLUSTER", help="its host cluster; it may have no VMs")
        power = _add_agent(parser)
        power.add_argument("--no-fence", action="store_true", help="it has no power management")

    def changes(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        fields = {name: getattr(parsed_args, name) for name in ("address", "port", "cluster")}
        return {**fields, "power_management": _agent(parsed_args)}


class HostsRemove(RemoveEntities):
    """Remove hosts: they are no longer monitored. Nothing is done to the hosts themselves."""

    noun = HOSTS


def _add_agent(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    power = parser.add_argument_group("power management")
    power.add_argument("--fence-kind", metavar="KIND", help="of the fence agent: ipmilan, apc, ...")
    power.add_argument("--fence-address", metavar="ADDRESS", help="where it is")
    power.add_argument("--fence-port", type=int, metavar="N", help="its port")
    power.add_argument("--fence-user", metavar="NAME", help="whom it knows")
    power.add_argument(
        "--fence-password-file",
        metavar="FILE",
        help="what it asks for, the first line of a file or of - (default: typed in)",
    )
    parser.set_defaults(no_fence=False)
    return power


def _agent(parsed_args: argparse.Namespace) -> Any:
    names = ("kind", "address", "port", "user")
    agent = {name: getattr(parsed_args, f"fence_{name}") for name in names}
    if parsed_args.no_fence:
        if any(value is not None for value in agent.values()):
            raise InvalidInput("--no-fence goes with no other --fence option")
        return EMPTY
    missing = [f"--fence-{name}" for name, value in agent.items() if value is None]
    if len(missing) == len(names):
        return None
    if missing:
        raise InvalidInput(f"power management is given as a whole; missing: {', '.join(missing)}")
    username = agent.pop("user")
    return {**agent, "username": username, "password": _password(parsed_args.fence_password_file)}


def _password(file: str | None) -> str:
    if file is None:
        return getpass.getpass("password of the fence agent: ")
    try:
        text = sys.stdin.readline() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} cannot be read: {error}") from error
    return text.partition("\n")[0]
