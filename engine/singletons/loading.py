"""Finds the installed singletons: what may run, what was refused and why.

Nothing that a plugin does while it is loaded stops the engine: an import that fails (or exits), a
class that is none, another contract version, a name that two packages claim, options that clash or
have bad values. Each is refused with its reason, and the others run.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import Any

from oslo_config import cfg
from stevedore.named import NamedExtensionManager

from engine.plugin import CONTRACT_VERSION, Scope, Singleton
from engine.singletons import options
from engine.singletons.threads import runs_in_loop

LOG = logging.getLogger(__name__)

NAMESPACE = "engine.singletons"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class SingletonPlugin:
    """A singleton that may run. `source` is `module:class`, `values` those of its options."""

    name: str
    source: str
    factory: type[Singleton]
    values: Mapping[str, Any] = field(repr=False)

    @property
    def scope(self) -> Scope:
        return self.factory.scope


@dataclass(frozen=True, slots=True)
class RefusedPlugin:
    """One that does not run here. `details` is a traceback, or empty."""

    name: str
    source: str
    reason: str
    details: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All that is installed, in order of name."""

    plugins: tuple[SingletonPlugin, ...]
    refused: tuple[RefusedPlugin, ...]


class Refusal(Exception):
    """Why one plugin is not taken; never leaves this module."""


class Unwanted(Refusal):
    """The configuration keeps it out, as somebody meant it."""


def load_singletons(conf: cfg.ConfigOpts, entry_points: Iterable[EntryPoint] | None = None) -> Catalogue:
    """Import what `[singletons]` enables, register its options under `[singleton_<name>]` and read them.

    `entry_points` stands in for what is installed.
    """
    conf.register_opts(options.OPTS, options.GROUP)
    enabled, disabled = set(conf[options.GROUP].enabled), set(conf[options.GROUP].disabled)
    found = sorted(installed() if entry_points is None else entry_points, key=lambda ep: (ep.name, ep.value))
    claims = Counter(entry_point.name for entry_point in found)
    plugins: list[SingletonPlugin] = []
    refused: list[RefusedPlugin] = []
    for entry_point in found:
        try:
            _require_enabled(entry_point.name, enabled, disabled)
            if claims[entry_point.name] > 1:
                others = [ep.value for ep in found if ep.name == entry_point.name]
                raise Refusal(f"the name is claimed {len(others)} times: {', '.join(others)}")
            plugins.append(_load(conf, entry_point))
        except Refusal as refusal:
            refused.append(_refused(entry_point.name, entry_point.value, refusal))
    for name in sorted(enabled - claims.keys() - {"*"}):
        refused.append(_refused(name, "", Refusal("it is enabled, but no installed package has it")))
    return Catalogue(tuple(plugins), tuple(refused))


def installed() -> Sequence[EntryPoint]:
    """The entry points of `engine.singletons`, nothing imported."""
    lister: NamedExtensionManager[Any] = NamedExtensionManager(NAMESPACE, names=[])
    return lister.list_entry_points()


def _refused(name: str, source: str, refusal: Refusal) -> RefusedPlugin:
    level = logging.INFO if isinstance(refusal, Unwanted) else logging.WARNING
    LOG.log(level, "singleton %s (%s) does not run: %s", name, source, refusal)
    details = "".join(traceback.format_exception(refusal.__cause__)) if refusal.__cause__ else ""
    if details:
        LOG.debug("singleton %s: %s", name, details)
    return RefusedPlugin(name, source, str(refusal), details)


def _require_enabled(name: str, enabled: set[str], disabled: set[str]) -> None:
    if name in disabled:
        raise Unwanted("it is disabled by [singletons] disabled")
    if name not in enabled and "*" not in enabled:
        raise Unwanted("[singletons] enabled does not name it")


def _load(conf: cfg.ConfigOpts, entry_point: EntryPoint) -> SingletonPlugin:
    if not _NAME.fullmatch(entry_point.name):
        raise Refusal("its name is not made of lower-case letters, digits and `_` (64 at most)")
    try:
        factory = entry_point.load()
    except BaseException as error:  # a module may do anything when it is imported, sys.exit() included
        raise Refusal(f"it cannot be imported: {type(error).__name__}: {error}") from error
    _require_contract(factory)
    return SingletonPlugin(
        entry_point.name, entry_point.value, factory, _options(conf, entry_point.name, factory)
    )


def _require_contract(factory: object) -> None:
    if not (isinstance(factory, type) and issubclass(factory, Singleton)):
        raise Refusal("it is no subclass of engine.plugin.Singleton")
    if factory.contract != CONTRACT_VERSION:
        raise Refusal(f"it is written for contract {factory.contract}, this engine has {CONTRACT_VERSION}")
    if missing := sorted(getattr(factory, "__abstractmethods__", ())):
        raise Refusal(f"it does not define {', '.join(missing)}()")
    if not isinstance(factory.scope, Scope):
        raise Refusal(f"its scope is {factory.scope!r}, not one of engine.plugin.Scope")
    if factory.scope is Scope.SHARD and not runs_in_loop(factory):
        raise Refusal("its scope is SHARD and its run() a plain `def`: it would take a thread a shard")


def _options(conf: cfg.ConfigOpts, name: str, factory: type[Singleton]) -> dict[str, Any]:
    group = f"singleton_{name}"
    try:
        conf.register_opts(list(factory.options), group)
        values = {option.dest: conf[group][option.dest] for option in factory.options}
    except Exception as error:  # a plugin's declarations may be anything
        raise Refusal(f"its options in [{group}] are not usable: {error}") from error
    mutable = [option.dest for option in factory.options if option.mutable]

    def mutate(conf: cfg.ConfigOpts, _changed: object) -> None:
        values.update({option: conf[group][option] for option in mutable})

    if mutable:
        conf.register_mutate_hook(mutate)
    return values
