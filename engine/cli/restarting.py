"""Starting engines again one by one: the next only when the one before is back and has its share.

Used by `engine members restart` and `engine plugins reload`. Stops at the first that does not come back: one
engine less is what a cluster is made to bear.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from engine.cli.client import Api
from engine.errors import NotFound, Unavailable

_LOOK_SECONDS = 0.2


class Restarting:
    """Tells its progress through `say`."""

    def __init__(self, api: Api, say: Callable[[str], object], *, timeout_seconds: float) -> None:
        self._api = api
        self._say = say
        self._timeout_seconds = timeout_seconds

    def everybody(self) -> list[str]:
        """The names of all engines."""
        return [member["engine"] for member in self._members()]

    def run(self, engines: Sequence[str]) -> None:
        """Raises `NotFound`, before anything is done, where one is no member; `Unavailable` where one stays
        away."""
        present = {member["engine"]: member for member in self._members()}
        if missing := [engine for engine in engines if engine not in present]:
            raise NotFound(f"{missing[0]} is not in the cluster; there are {', '.join(sorted(present))}")
        for engine in engines:
            began = time.monotonic()
            before = present[engine]["pid"], present[engine]["started"]
            self._api.post(f"/v1/members/{quote(engine, safe='')}/restart", {})
            shards = self._until_back(engine, before, began + self._timeout_seconds)
            self._say(f"{engine} is back after {time.monotonic() - began:.1f} s, with {shards} shards\n")

    def _until_back(self, engine: str, before: tuple[Any, Any], deadline: float) -> int:
        while time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
            try:
                members = self._members()
                status = self._api.get("/v1/status")
            except Unavailable:  # this worker of the API, too, may be away for a moment
                continue
            found = [member for member in members if member["engine"] == engine]
            if found and (found[0]["pid"], found[0]["started"]) != before:
                owned: int = found[0]["shards_owned"]
                shards = status["shards"]
                if owned and shards["owned"] == shards["total"]:
                    return owned
        raise Unavailable(
            f"{engine} has not come back within {self._timeout_seconds:g} s: look at its log; the engines"
            " after it were not restarted"
        )

    def _members(self) -> list[dict[str, Any]]:
        return list(self._api.pages("/v1/members", "members"))
