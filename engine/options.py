"""All options of the engine in one place: registered, read from files, listed for the sample.

Each package keeps its own options beside their user; nothing but this module and the services that
call it touches a ConfigOpts. What code receives are its own values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oslo_config import cfg
from oslo_log import log

from engine import service_options
from engine.api import options as api
from engine.commands import options as commands
from engine.coordination import options as coordination
from engine.coordination.session import SessionSettings
from engine.db import options as database
from engine.execution import options as execution
from engine.extensions import installed, load_class
from engine.hosts import options as hosts
from engine.scheduler import options as scheduler
from engine.sharding import options as sharding
from engine.sharding.ownership import OwnershipSettings
from engine.singletons import options as singletons

_PACKAGES = (
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




def load(files: Sequence[str], *, program: str = "engine") -> cfg.ConfigOpts:
    """Read configuration files, set up logging, and return the options.

    Where the files name a `config_source` with the driver `zookeeper`, the cluster's values are read
    too; what a file says hides them. Raises oslo.config's errors, which name option and value.
    """
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    for package in _PACKAGES:
        conf.register_opts(package.OPTS, group=package.GROUP)
    # Not the default files of oslo.config: an engine reads what it was told, and nothing it happens to find.
    conf([], project=program, default_config_files=list(files), default_config_dirs=[])
    for package in _PACKAGES:  # oslo.config looks at a value when it is used; a bad one is told at once
        for option in package.OPTS:
            conf[package.GROUP][option.dest]
    log.set_defaults(
        default_log_levels=[*log.get_default_log_levels(), "kazoo=WARN", "alembic=WARN", "aiosqlite=INFO"]
    )
    log.setup(conf, program)
    return conf


def list_opts() -> list[tuple[str, Sequence[Any]]]:
    """For oslo-config-generator: every group with its options, the installed plugins' included."""
    listed: list[tuple[str, Sequence[Any]]] = [(p.GROUP, list(p.OPTS)) for p in _PACKAGES]
    for namespace, prefix in (
        ("engine.drivers", "driver"),
        ("engine.singletons", "singleton"),
        ("engine.tasks", "task"),
    ):
        for name in installed(namespace):
            if declared := load_class(namespace, name).options:
                listed.append((f"{prefix}_{name}", list(declared)))
    return listed


def driver_values(conf: cfg.ConfigOpts, name: str, declared: Sequence[cfg.Opt]) -> dict[str, Any]:
    """The values of `[driver_<name>]`."""
    return plugin_values(conf, f"driver_{name}", declared)


def plugin_values(conf: cfg.ConfigOpts, group: str, declared: Sequence[cfg.Opt]) -> dict[str, Any]:
    """The values of a plugin's options in its group. Raises oslo.config's errors."""
    conf.register_opts(declared, group=group)
    return {option.dest: conf[group][option.dest] for option in declared}


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
