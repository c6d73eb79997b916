"""What hosts, VMs and host clusters have in common on the command line: list, show, add, update, remove, act.

Each noun states itself once (`Noun`) and what is its own: the filters of its list, the fields of a
new one and of a changed one, its actions. A change is made from the version that was just read, so that
what somebody else changed in between is refused rather than overwritten.
"""

from __future__ import annotations

import abc
import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cliff.command import Command
from cliff.lister import Lister
from cliff.show import ShowOne

from engine.cli.actions import act, add_wait_option, path_to, shown
from engine.cli.client import Api, add_api_options, open_api
from engine.cli.columns import one, table
from engine.errors import InvalidInput

Rows = tuple[Sequence[str], Iterable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Noun:
    """`plural` is its path and the name of its list in the API; `narrow` the columns that fit a terminal."""

    plural: str
    word: str
    called: str
    columns: Sequence[str]
    narrow: Sequence[str]
    times: Sequence[str] = ("created_at",)
    sorted_by: Sequence[str] = ()

    def add_to(self, parser: argparse.ArgumentParser, *, several: bool = False) -> None:
        more: dict[str, Any] = {"nargs": "+"} if several else {}
        parser.add_argument(self.word, help=f"name or id of the {self.called}", **more)

    def find(self, api: Api, parsed_args: argparse.Namespace) -> dict[str, Any]:
        return api.get(path_to(self.plural, getattr(parsed_args, self.word)))


class ListEntities(Lister):
    """`filters` are options whose names are the API's parameters."""

    noun: ClassVar[Noun]
    filters: ClassVar[Sequence[str]] = ()

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        self.add_filters(parser)
        if self.noun.sorted_by:
            keys = ", ".join(self.noun.sorted_by)
            parser.add_argument(
                "--order-by", metavar="KEY", help=f"{keys}; the greatest first: --order-by=-KEY"
            )
        parser.add_argument("--limit", type=int, metavar="N", help="at most this many (default: all)")
        add_api_options(parser)
        return parser

    def add_filters(self, parser: argparse.ArgumentParser) -> None:
        """The options of `filters`."""

    def take_action(self, parsed_args: argparse.Namespace) -> Rows:
        noun = self.noun
        params = {name: getattr(parsed_args, name) for name in self.filters}
        params["sort"] = getattr(parsed_args, "order_by", None)
        with open_api(parsed_args) as api:
            found = list(api.pages(f"/v1/{noun.plural}", noun.plural, limit=parsed_args.limit, params=params))
        narrow = parsed_args.formatter == "table" and not parsed_args.columns
        columns = noun.narrow if narrow else noun.columns
        return table(found, columns, output=parsed_args.formatter, times=noun.times)


class ShowEntity(ShowOne):
    noun: ClassVar[Noun]

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        self.noun.add_to(parser)
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Rows:
        with open_api(parsed_args) as api:
            found = self.noun.find(api, parsed_args)
        return one(found, output=parsed_args.formatter, times=self.noun.times)


class AddEntity(ShowOne):
    noun: ClassVar[Noun]

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", help=f"name of the {self.noun.called}, unique")
        self.add_fields(parser)
        add_api_options(parser)
        return parser

    def add_fields(self, parser: argparse.ArgumentParser) -> None:
        """The options that `asked` reads."""

    @abc.abstractmethod
    def asked(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        """The fields of the new one; None for those that were not given."""

    def take_action(self, parsed_args: argparse.Namespace) -> Rows:
        body = given({"name": parsed_args.name, **self.asked(parsed_args)})
        with open_api(parsed_args) as api:
            added = api.post(f"/v1/{self.noun.plural}", body)
        return one(added, output=parsed_args.formatter, times=self.noun.times)


class UpdateEntity(ShowOne):
    noun: ClassVar[Noun]

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        self.noun.add_to(parser)
        parser.add_argument("--name", help="a new name")
        self.add_fields(parser)
        parser.add_argument(
            "--if-version",
            type=int,
            metavar="N",
            help="only while it is at this version, as `show` tells it (default: the present one)",
        )
        add_api_options(parser)
        return parser

    def add_fields(self, parser: argparse.ArgumentParser) -> None:
        """The options that `changes` reads."""

    @abc.abstractmethod
    def changes(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        """The changed fields; None for those that stay, `EMPTY` for those that are emptied."""

    def take_action(self, parsed_args: argparse.Namespace) -> Rows:
        changes = given({"name": parsed_args.name, **self.changes(parsed_args)})
        if not changes:
            raise InvalidInput("nothing is to be changed: name at least one option")
        with open_api(parsed_args) as api:
            found = self.noun.find(api, parsed_args)
            wanted = parsed_args.if_version
            version = found["version"] if wanted is None else wanted
            changed = api.patch(path_to(self.noun.plural, found["id"]), changes, version=version)
        return one(changed, output=parsed_args.formatter, times=self.noun.times)


class RemoveEntities(Command):
    noun: ClassVar[Noun]

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        self.noun.add_to(parser, several=True)
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        plural = self.noun.plural
        with open_api(parsed_args) as api:
            # All are found before the first is removed, so that a typing error removes nothing.
            for found in [api.get(path_to(plural, name)) for name in getattr(parsed_args, self.noun.word)]:
                api.delete(path_to(plural, found["id"]))
                self.app.stdout.write(f"removed {found['name']} ({found['id']})\n")


class ActOnEntity(ShowOne):
    """`action` is a command's name in the API, below the entity."""

    noun: ClassVar[Noun]
    action: ClassVar[str]

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        self.noun.add_to(parser)
        self.add_arguments(parser)
        add_wait_option(parser)
        add_api_options(parser)
        return parser

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """What `body` reads."""

    def body(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        return {}

    def take_action(self, parsed_args: argparse.Namespace) -> Rows:
        path = path_to(self.noun.plural, getattr(parsed_args, self.noun.word), self.action)
        with open_api(parsed_args) as api:
            command = act(api, path, given(self.body(parsed_args)), wait=parsed_args.wait)
        return one(shown(command), output=parsed_args.formatter, times=("created_at", "ended_at"))


class _Empty:
    """For a field that is to have no value any more."""


EMPTY = _Empty()


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without those that were not given; JSON's null for those that are emptied."""
    return {name: None if value is EMPTY else value for name, value in fields.items() if value is not None}


def or_empty(value: str | None) -> Any:
    """An option whose empty text means no value."""
    return EMPTY if value == "" else value
