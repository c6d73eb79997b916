"""All options of the engine in one place: registered, read from files, listed for the sample.

Each package keeps its own options beside their user; nothing but this module and the services that
call it touches a ConfigOpts. What code receives are its own values.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from oslo_config import cfg
from oslo_log import log

from engine import extension_options, service_options
from engine.api import options as api
from engine.commands import options as commands
from engine.config import cache
from engine.config.catalogue import OptionCatalogue
from engine.config.live import LiveConfiguration
from engine.coordination import options as coordination
from engine.coordination.paths import Paths
from engine.coordination.session import SessionSettings
from engine.db import options as database
from engine.errors import InvalidInput
from engine.execution import options as execution
from engine.extensions import Installed
from engine.hosts import options as hosts
from engine.scheduler import options as scheduler
from engine.secrets import Secrets
from engine.sharding import options as sharding
from engine.sharding.ownership import OwnershipSettings
from engine.singletons import options as singletons

LOG = logging.getLogger(__name__)

_PACKAGES = (
    extension_options,
    service_options,
    coordination,
    database,
    sharding,
    hosts,
    commands,
    scheduler,
    singletons,
    execution,
    api,
)


_LOG_LEVELS = log.get_default_log_levels()
_LOG_OPTIONS = ("debug", "default_log_levels", "rate_limit_interval", "rate_limit_burst")
"""Those of oslo.log that mean the same on every machine."""


def load(files: Sequence[str], *, program: str = "engine") -> cfg.ConfigOpts:
    """Read configuration files, set up logging, and return the options.

    Where the files name a `config_source` with the driver `zookeeper`, the cluster's values are read
    too; what a file says hides them. Raises oslo.config's errors, which name option and value.
    """
    conf = read(files, program=program)
    log.setup(conf, program)
    return conf


def load_shared(files: Sequence[str], *, program: str, process: str | None = None) -> LiveConfiguration:
    """As `load`, with what the cluster sets on top of the files; the result keeps it current.

    `process` names one that is no engine; all such of a program share one file of values. Raises
    oslo.config's errors, `InvalidInput`, `Conflict`.
    """
    own = load(files, program=program)
    name = process or own.engine.name
    live = LiveConfiguration(
        files,
        _rendered_file(own, program if process else name),
        catalogue=catalogue(installed_by(own)),
        read=lambda found: read(found, program=program),
        name=name,
        engine=None if process else own.engine.name,
        secrets=Secrets.given(own.database.secrets_key_file),
    )
    live.start(session_settings(own))
    log.setup(live.conf, program)
    return live


def _rendered_file(conf: cfg.ConfigOpts, name: str) -> Path:
    if conf.engine.shared_values_file:
        return Path(f"{conf.engine.shared_values_file}-{name}")
    source = f"{conf.coordination.hosts}{Paths(conf.coordination.cluster).config}"
    place = cache.default_file(source, os.environ)
    if place is None:
        raise InvalidInput(
            "there is no place for the cluster's values: set [engine] shared_values_file, or HOME",
            fields={"engine.shared_values_file": "has to be set"},
        )
    return place.with_name(f"{place.stem}-{name}.conf")


def read(files: Sequence[str], *, program: str) -> cfg.ConfigOpts:
    """The options as the files and the environment have them; changes nothing else in the process."""
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    log.set_defaults(
        default_log_levels=[*_LOG_LEVELS, "kazoo=WARN", "alembic=WARN", "aiosqlite=INFO"],
    )
    for package in _PACKAGES:
        conf.register_opts(package.OPTS, group=package.GROUP)
    # Not the default files of oslo.config: an engine reads what it was told, and nothing it happens to find.
    conf([], project=program, default_config_files=list(files), default_config_dirs=[])
    for package in _PACKAGES:  # oslo.config looks at a value when it is used; a bad one is told at once
        for option in package.OPTS:
            conf[package.GROUP][option.dest]
    return conf


def installed_by(conf: cfg.ConfigOpts) -> Installed:
    """The plugins that `[plugins]` lets in."""
    return Installed(Path(conf.plugins.directory), allow=conf.plugins.allow)


def catalogue(found: Installed | None = None) -> OptionCatalogue:
    """All that the cluster may set, and what it may not because it belongs to one machine."""
    local = {
        key
        for package in _PACKAGES
        for key in (
            [package.GROUP]
            if getattr(package, "LOCAL", ()) == "all"
            else [f"{package.GROUP}/{name}" for name in getattr(package, "LOCAL", ())]
        )
    }
    per_cluster = {f"{p.GROUP}/{name}" for p in _PACKAGES for name in getattr(p, "PER_CLUSTER", ())}
    for group, kind in _plugins(found or Installed()):
        per_cluster |= {f"{group}/{name}" for name in getattr(kind, "per_cluster", ())}
        local |= {f"{group}/{name}" for name in getattr(kind, "local", ())}
    return OptionCatalogue([(None, _log_options()), *list_opts(found)], local=local, per_cluster=per_cluster)


def _log_options() -> list[cfg.Opt]:
    (oslo_log,) = entry_points(group="oslo.config.opts", name="oslo.log")
    return [
        copy.copy(option)
        for _, declared in oslo_log.load()()
        for option in declared
        if option.dest in _LOG_OPTIONS
    ]


def list_opts(found: Installed | None = None) -> list[tuple[str, Sequence[Any]]]:
    """For oslo-config-generator: every group with its options, the installed plugins' included."""
    listed: list[tuple[str, Sequence[Any]]] = [(p.GROUP, list(p.OPTS)) for p in _PACKAGES]
    listed += [(group, list(kind.options)) for group, kind in _plugins(found or Installed())]
    return listed


def _plugins(found: Installed) -> Iterator[tuple[str, Any]]:
    """The classes of those that have options, with the group of each."""
    for namespace, prefix in (
        ("engine.drivers", "driver"),
        ("engine.singletons", "singleton"),
        ("engine.tasks", "task"),
    ):
        for name in found.names(namespace):
            try:
                kind = found.load_class(namespace, name)
            except InvalidInput as error:  # whoever would run it says so, and runs on without it
                LOG.debug("no options of %s: %s", name, error)
                continue
            if kind.options:
                yield f"{prefix}_{name}", kind


def driver_values(conf: cfg.ConfigOpts, name: str, declared: Sequence[cfg.Opt]) -> dict[str, Any]:
    """The values of `[driver_<name>]`."""
    return plugin_values(conf, f"driver_{name}", declared)


def plugin_values(conf: cfg.ConfigOpts, group: str, declared: Sequence[cfg.Opt]) -> dict[str, Any]:
    """The values of a plugin's options in its group; those of mutable options change in place. Raises
    oslo.config's errors."""
    conf.register_opts(declared, group=group)
    values = {option.dest: conf[group][option.dest] for option in declared}
    if mutable := [option.dest for option in declared if option.mutable]:
        conf.register_mutate_hook(
            lambda conf, _changed: values.update({name: conf[group][name] for name in mutable})
        )
    return values


def session_settings(conf: cfg.ConfigOpts) -> SessionSettings:
    """From `[coordination]`."""
    group = conf.coordination
    return SessionSettings(
        hosts=group.hosts,
        cluster=group.cluster,
        timeout_seconds=group.timeout_seconds,
        tick_seconds=group.tick_seconds,
        connect_seconds=group.connect_seconds,
        tls=coordination.tls_settings(group),
        digest=group.digest,
    )


def ownership_settings(conf: cfg.ConfigOpts) -> OwnershipSettings:
    """From `[sharding]`."""
    group = conf.sharding
    return OwnershipSettings(
        join_debounce_seconds=group.join_debounce_seconds,
        handover_seconds=group.handover_seconds,
        untaken_seconds=group.untaken_seconds,
    )
