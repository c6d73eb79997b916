"""The installed commands, by type. One that cannot be imported is left out, loudly; the rest run.

A type that this engine does not know stays queued for an engine that does.
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from engine import arguments
from engine.errors import NotFound
from engine.plugin import CONTRACT_VERSION, Command, Json

LOG = logging.getLogger(__name__)

NAMESPACE = "engine.commands"


class Catalogue:
    """Types of commands and their classes."""

    def __init__(self, types: Mapping[str, type[Command]]) -> None:
        self.types: Mapping[str, type[Command]] = dict(types)

    def build(self, type: str, values: Json) -> Command:
        """The command. Raises `NotFound` for a type that is none, `InvalidInput` for bad arguments."""
        if type not in self.types:
            raise NotFound(f"there is no command {type}; there are {', '.join(sorted(self.types)) or 'none'}")
        kind = self.types[type]
        parsed: Any = arguments.parse(kind.arguments_type, values)
        return kind(parsed)


def load_commands(found: Iterable[EntryPoint] | None = None) -> Catalogue:
    """What is installed; `found` stands in for it."""
    types: dict[str, type[Command]] = {}
    offered = list(entry_points(group=NAMESPACE) if found is None else found)
    claims = Counter(entry_point.name for entry_point in offered)
    for entry_point in sorted(offered, key=lambda each: each.name):
        try:
            kind = entry_point.load()
        except (Exception, SystemExit):
            LOG.exception("command %s cannot be imported", entry_point.name)
            continue
        if not (inspect.isclass(kind) and issubclass(kind, Command)):
            LOG.error("command %s: %s is no Command", entry_point.name, entry_point.value)
        elif kind.contract != CONTRACT_VERSION:
            LOG.error("command %s is written for contract %s", entry_point.name, kind.contract)
        elif claims[entry_point.name] > 1:
            LOG.error("command %s is offered more than once: none of them is used", entry_point.name)
        else:
            types[entry_point.name] = kind
    return Catalogue(types)
