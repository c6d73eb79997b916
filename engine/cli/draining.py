"""`engine members drain` and `undrain`: an engine that goes on running and owns nothing.

What it is for: a machine that is to be worked on, or an engine that is suspected and should be looked at
while it runs. It lasts until `undrain`, or until that engine is started again.
"""

from __future__ import annotations

import abc
import argparse
import time
from typing import Any
from urllib.parse import quote

from cliff.command import Command

from engine.cli.client import Api, add_api_options, open_api
from engine.errors import Unavailable

_LOOK_SECONDS = 0.2


class _Draining(Command):
    verb: str
    state: str

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("engine", metavar="ENGINE")
        parser.add_argument(
            "--timeout", type=float, default=60.0, metavar="SECONDS", help="how long to wait for it (60)"
        )
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        engine, deadline = parsed_args.engine, time.monotonic() + parsed_args.timeout
        with open_api(parsed_args) as api:
            api.post(f"/v1/members/{quote(engine, safe='')}/{self.verb}", {})
            while (found := _present(api, engine))["state"] != self.state or not self.is_done(found):
                if time.monotonic() >= deadline:
                    raise Unavailable(
                        f"{engine} is {found['state']} and has {found['shards_owned']} shards after"
                        f" {parsed_args.timeout:g} s: look at its log"
                    )
                time.sleep(_LOOK_SECONDS)
        self.app.stdout.write(f"{engine} is {found['state']}, with {found['shards_owned']} shards\n")

    @abc.abstractmethod
    def is_done(self, member: dict[str, Any]) -> bool:
        """Whether an engine in this state has come to where the verb leads."""


class MembersDrain(_Draining):
    """Have an engine hand over all that it owns and leads. It goes on running, without anything, until it is
    undrained or started again. (The partitioner `kazoo` knows no draining.)"""

    verb, state = "drain", "draining"

    def is_done(self, member: dict[str, Any]) -> bool:
        return bool(member["shards_owned"] == 0)


class MembersUndrain(_Draining):
    """Give an engine that was drained its share again."""

    verb, state = "undrain", "up"

    def is_done(self, member: dict[str, Any]) -> bool:
        return bool(member["shards_owned"] > 0)


def _present(api: Api, engine: str) -> dict[str, Any]:
    """Raises `Unavailable` where it has gone meanwhile."""
    for member in api.pages("/v1/members", "members"):
        if member["engine"] == engine:
            return dict(member)
    raise Unavailable(f"{engine} is no member of the cluster any more")
