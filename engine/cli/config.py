"""`engine config ...`: the configuration that the cluster shares, as it stands in ZooKeeper.

Values are checked by the API before they are written. What a machine's environment or command line says
hides the cluster's value there, and the cluster's hides that of the local file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from cliff.lister import Lister

from engine.cli.client import Api, add_api_options, open_api
from engine.cli.columns import table
from engine.errors import InvalidInput

COLUMNS = ("group", "option", "value", "version", "changed")
CHANGES = ("option", "old", "new", "takes_effect")


class ConfigGet(Lister):
    """Show the options that the cluster sets, or one of them. Secrets are not shown."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        parser.add_argument("option", nargs="?", metavar="GROUP.OPTION", help="only this one")
        add_engine_option(parser)
        add_hosts_option(parser)
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        params = {"engine": parsed_args.engine}
        cluster = parsed_args.hosts_of
        with open_api(parsed_args) as api:
            if parsed_args.option is None:
                options = list(api.pages("/v1/config", "options", params=params))
                if cluster:
                    options = [each for each in options if each["group"].endswith(f"@{cluster}")]
            else:
                options = [api.get(path_of(for_hosts_of(cluster, parsed_args.option)), params)]
        return table(options, COLUMNS, output=parsed_args.formatter, times=("changed",))


class ConfigList(Lister):
    """List all options that there are: what each may be, and what the cluster sets it to."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        parser.add_argument("group", nargs="?", metavar="GROUP", help="only this group")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            options = list(api.pages("/v1/config/options", "options", params={"group": parsed_args.group}))
            given = values_of(api, None)
        if not options and parsed_args.group:
            raise InvalidInput(f"there is no group of options {parsed_args.group!r}")
        for option in options:
            option["cluster"] = given.get(option["option"])
        columns: tuple[str, ...] = (
            "option",
            "cluster",
            "default",
            "allowed",
            "takes_effect",
            "local",
            "per_cluster",
        )
        if parsed_args.formatter != "table":
            columns = (*columns, "secret", "help")
        return table(options, columns, output=parsed_args.formatter)


class ConfigSet(Lister):
    """Set options for all engines (or one), all of them or none. Engines apply them at once where they can;
    `engine config pending` tells what waits for a restart."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        parser.add_argument(
            "values", nargs="+", metavar="GROUP.OPTION=VALUE", help="or one GROUP.OPTION and its VALUE"
        )
        add_hosts_option(parser)
        add_change_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        given = assignments(parsed_args.values).items()
        return change(
            parsed_args, {"set": {for_hosts_of(parsed_args.hosts_of, name): value for name, value in given}}
        )


class ConfigUnset(Lister):
    """Leave options to the local files and the defaults again."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        parser.add_argument("options", nargs="+", metavar="GROUP.OPTION")
        add_hosts_option(parser)
        add_change_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        cluster = parsed_args.hosts_of
        return change(parsed_args, {"unset": [for_hosts_of(cluster, name) for name in parsed_args.options]})


class ConfigPending(Lister):
    """What each process has not applied: options that wait for its restart, and values that it refuses."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            processes = api.get("/v1/config/status")["processes"]
        rows = [
            {"process": process["name"], "option": option, "why": why}
            for process in processes
            for option, why in [
                *((name, "needs a restart") for name in process["pending"]),
                *((key.replace("/", "."), f"refused: {why}") for key, why in process["refused"].items()),
            ]
        ]
        return table(rows, ("process", "option", "why"), output=parsed_args.formatter)


def add_engine_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", metavar="NAME", help="what is set for this engine only")


def add_hosts_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hosts-of",
        metavar="CLUSTER",
        help="what is set for the hosts of this cluster of hosts only, as GROUP@CLUSTER.OPTION",
    )


def for_hosts_of(cluster: str | None, option: str) -> str:
    """`hosts.tick_seconds` as it is called for the hosts of one cluster: `hosts@paris.tick_seconds`."""
    group, dot, name = option.rpartition(".")
    return f"{group}@{cluster}{dot}{name}" if cluster and "@" not in group else option


def add_change_options(parser: argparse.ArgumentParser) -> None:
    """Of all that change something."""
    add_engine_option(parser)
    parser.add_argument("--comment", metavar="TEXT", default="", help="why, for the history")
    add_api_options(parser)


def change(arguments: argparse.Namespace, wanted: Mapping[str, Any]) -> tuple[Sequence[str], Iterable[Any]]:
    """Ask for it, and show what was changed."""
    body = {**wanted, "comment": arguments.comment}
    if arguments.engine:
        body["engine"] = arguments.engine
    with open_api(arguments) as api:
        done = api.patch("/v1/config", body)
    return table(done["changes"], CHANGES, output=arguments.formatter)


def values_of(api: Api, engine: str | None) -> dict[str, Any]:
    """What is set, by `group.option`; secrets masked."""
    pages = api.pages("/v1/config", "options", params={"engine": engine})
    return {f"{option['group']}.{option['option']}": option["value"] for option in pages}


def assignments(given: Sequence[str]) -> dict[str, str]:
    """From `a.b=c d.e=f`, or from `a.b c`."""
    if len(given) == 2 and "=" not in given[0]:
        return {given[0]: given[1]}
    pairs = [word.partition("=") for word in given]
    if bad := [name for name, equals, _ in pairs if not equals]:
        raise InvalidInput(f"{bad[0]!r} should be GROUP.OPTION=VALUE")
    return {name: value for name, _, value in pairs}


def path_of(option: str) -> str:
    """Where the API has `group.option`. Raises `InvalidInput` for another form."""
    group, dot, name = option.rpartition(".")
    if not (group and dot and name):
        raise InvalidInput(
            f"{option!r} should be GROUP.OPTION, for example singleton_event_retention.keep_days"
        )
    return f"/v1/config/{quote(group, safe='')}/{quote(name, safe='')}"
