"""Finds plugins: in installed distributions, and in a directory into which one is dropped.

A drop-in is what `pip install --target DIRECTORY` leaves there, or a single module that says what it offers:

    ENTRY_POINTS = {"engine.singletons": {"roll_call": "RollCall"}}

which is read without running the module. stevedore's own list of entry points is kept on disk by path and
time, and may be two minutes old; so the list is Python's, read once a process, and stevedore loads from it.
Built where configuration is read; handed to the catalogues of each kind.
"""

from __future__ import annotations

import ast
import logging
import os
import stat
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import invalidate_caches, metadata
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from stevedore import ExtensionManager
from stevedore.exception import NoMatches

from engine.errors import InvalidInput
from engine.plugin import (
    CONTRACT_VERSION,
    Command,
    HostDriver,
    Job,
    Partitioner,
    Singleton,
    Task,
)

LOG = logging.getLogger(__name__)

CONTRACTS: Mapping[str, type] = {
    "engine.commands": Command,
    "engine.drivers": HostDriver,
    "engine.jobs": Job,
    "engine.partitioners": Partitioner,
    "engine.singletons": Singleton,
    "engine.tasks": Task,
}
"""What each namespace's plugins are: subclasses; of jobs, instances."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One entry point, and who offers it: a distribution, or a file of the directory."""

    namespace: str
    name: str
    entry_point: EntryPoint
    origin: str
    version: str


@dataclass(frozen=True, slots=True)
class Surveyed:
    """An offer as it was loaded. `refusal` says why it is not used; empty where it may be."""

    offer: Offer
    options: tuple[str, ...]
    scope: str
    refusal: str


class _Listed(ExtensionManager[Any]):
    """stevedore's manager over entry points that were found already."""

    def __init__(self, namespace: str, found: list[EntryPoint], **options: Any) -> None:
        self._found = found
        super().__init__(namespace, invoke_on_load=False, **options)

    def list_entry_points(self) -> list[EntryPoint]:
        return self._found


class Installed:
    """What this process may load. `allow` names the distributions (or files) that are let in; '*' all."""

    def __init__(self, directory: Path | None = None, *, allow: Collection[str] = ("*",)) -> None:
        self._allow = frozenset(allow)
        self._dropped: list[Offer] = []
        if directory is not None and _trusted(directory):
            if str(directory) not in sys.path:
                sys.path.append(str(directory))  # last: nothing in it can stand in for what is installed
            invalidate_caches()
            self._dropped = _offered_by_files(directory)

    def offers(self, namespace: str) -> list[Offer]:
        """All of them, in order of name, also those that are not let in."""
        found = {
            (point.name, point.value): Offer(
                namespace,
                point.name,
                point,
                point.dist.name if point.dist else "",
                point.dist.version if point.dist else "",
            )
            for point in metadata.entry_points(group=namespace)
        }
        dropped = [offer for offer in self._dropped if offer.namespace == namespace]
        return sorted([*found.values(), *dropped], key=lambda offer: (offer.name, offer.origin))

    def entry_points(self, namespace: str) -> list[EntryPoint]:
        """Of those that are let in."""
        return [offer.entry_point for offer in self.offers(namespace) if self._lets_in(offer)]

    def names(self, namespace: str) -> list[str]:
        """Sorted; nothing is imported."""
        return sorted({point.name for point in self.entry_points(namespace)})

    def load_class(self, namespace: str, name: str) -> Any:
        """The class that entry point `name` of `namespace` stands for.

        Raises `InvalidInput` when there is none (naming those that there are), when two distributions
        offer it, when its import fails, or when it was written for another contract version.
        """
        failures: dict[str, BaseException] = {}

        def note(_manager: Any, entry_point: Any, error: BaseException) -> None:
            failures[entry_point.name] = error

        found = self.entry_points(namespace)
        wanted = [point for point in found if point.name == name]
        try:
            manager = _Listed(namespace, wanted, on_load_failure_callback=note)
        except NoMatches:
            wanted = []
        if not wanted:
            present = ", ".join(sorted({point.name for point in found})) or "none"
            raise InvalidInput(f"no plugin {name} in {namespace}; installed: {present}")
        if name in failures:
            raise InvalidInput(f"plugin {name} of {namespace} cannot be imported: {failures[name]!r}")
        if len(wanted) > 1:
            sources = ", ".join(sorted(point.value for point in wanted))
            raise InvalidInput(f"plugin {name} of {namespace} is offered more than once: {sources}")
        plugin = manager.extensions[0].plugin
        if plugin.contract != CONTRACT_VERSION:
            raise InvalidInput(
                f"plugin {name} of {namespace} is written for contract {plugin.contract},"
                f" this engine has {CONTRACT_VERSION}"
            )
        return plugin

    def survey(self) -> list[Surveyed]:
        """Every plugin of every kind, loaded, for people to look at."""
        surveyed = []
        for namespace in CONTRACTS:
            offers = self.offers(namespace)
            claims = Counter(offer.name for offer in offers if self._lets_in(offer))
            surveyed += [self._surveyed(offer, claims[offer.name]) for offer in offers]
        return surveyed

    def _lets_in(self, offer: Offer) -> bool:
        return "*" in self._allow or offer.origin in self._allow

    def _surveyed(self, offer: Offer, claims: int) -> Surveyed:
        if not self._lets_in(offer):
            return Surveyed(offer, (), "", f"[plugins] allow does not name {offer.origin}")
        try:
            plugin = offer.entry_point.load()
        except BaseException as error:  # a module may do anything when it is imported, sys.exit() included
            return Surveyed(offer, (), "", f"it cannot be imported: {type(error).__name__}: {error}")
        options = tuple(option.name for option in getattr(plugin, "options", ()) or ())
        scope = getattr(getattr(plugin, "scope", None), "value", "")
        return Surveyed(offer, options, scope, _misfit(offer.namespace, plugin, claims))


def _misfit(namespace: str, plugin: Any, claims: int) -> str:
    kind = CONTRACTS[namespace]
    fits = isinstance(plugin, kind) or (isinstance(plugin, type) and issubclass(plugin, kind))
    if not fits:
        return f"it is no {kind.__name__} of engine.plugin"
    if plugin.contract != CONTRACT_VERSION:
        return f"it is written for contract {plugin.contract}, this engine has {CONTRACT_VERSION}"
    if claims > 1:
        return f"its name is claimed {claims} times"
    return ""


def _trusted(directory: Path) -> bool:
    """Whether there is such a directory, and only its owner (we, or root) can put code into it."""
    try:
        found = directory.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        LOG.error("[plugins] directory %s cannot be read: %s", directory, error.strerror)
        return False
    if found.st_uid not in (os.geteuid(), 0) or stat.S_IMODE(found.st_mode) & 0o022:
        LOG.error("[plugins] directory %s is not used: others than its owner can write into it", directory)
        return False
    return True


def _offered_by_files(directory: Path) -> list[Offer]:
    offers = []
    for file in sorted(directory.glob("*.py")):
        try:
            said = _literals(file)
        except (OSError, SyntaxError, ValueError) as error:
            LOG.error("plugin file %s is not used: %s", file, error)
            continue
        declared = said.get("ENTRY_POINTS", {})
        if not isinstance(declared, dict):
            LOG.error("plugin file %s: ENTRY_POINTS is no mapping of namespaces", file)
            continue
        for namespace, names in declared.items():
            if not isinstance(names, dict):
                LOG.error("plugin file %s: %s is no mapping of names to classes", file, namespace)
                continue
            for name, attribute in names.items():
                point = EntryPoint(name, f"{file.stem}:{attribute}", namespace)
                offers.append(Offer(namespace, name, point, file.name, str(said.get("__version__", ""))))
    return offers


def _literals(file: Path) -> Mapping[str, Any]:
    """What the module assigns at its top in so many words; nothing of it is run."""
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    found: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            if name in ("ENTRY_POINTS", "__version__"):
                found[name] = ast.literal_eval(statement.value)
    return found


def installed(namespace: str) -> Sequence[str]:
    """Names of all that is installed in `namespace`, whatever the configuration lets in."""
    return Installed().names(namespace)
