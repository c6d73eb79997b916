"""What an engine has for as long as its process lives: its database, drivers, maps, plugins, and the address
at which it is called.

Invariant: nothing here acts by itself or bears a claim; that begins and ends with a session (`work.py`).
Opened by the composition root, which leaves it last.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from oslo_config import cfg

from engine import options
from engine.db.database import Database
from engine.db.options import DatabaseSettings
from engine.extensions import Installed
from engine.plugin import EngineId, HostDriver
from engine.secrets import Secrets
from engine.service.calling import Calling
from engine.service.plugins import Doors
from engine.service.settings import EngineSettings
from engine.singletons.loading import load_singletons
from engine.singletons.runner import SingletonRunner
from engine.state.maps import Maps

Overrides = Callable[[str], Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Of one engine process, built from its configuration once."""

    conf: cfg.ConfigOpts
    name: EngineId
    shards: int
    settings: EngineSettings
    installed: Installed
    secrets: Secrets
    database: Database
    drivers: Mapping[str, HostDriver]
    maps: Maps
    calling: Calling
    doors: Doors
    singletons: SingletonRunner
    overrides: Overrides

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(
        cls,
        conf: cfg.ConfigOpts,
        settings: EngineSettings,
        *,
        overrides: Overrides,
    ) -> AsyncIterator[Self]:
        """Open while the body runs. `overrides`: of a group of options, what is set for the hosts of one
        host cluster. Raises `InvalidInput` where the configuration forbids it."""
        name, shards = EngineId(conf.engine.name), conf.sharding.shards
        installed = options.installed_by(conf)
        chosen = DatabaseSettings.from_conf(conf)
        secrets = Secrets.given(chosen.secrets_key_file)
        async with (
            Database(
                chosen.url,
                program=name,
                busy_timeout_seconds=chosen.busy_timeout_seconds,
                pool_size=chosen.pool_size,
            ) as database,
            _drivers(conf, installed) as drivers,
            Calling.opened(conf, name, installed, settings=settings.execution) as calling,
        ):
            maps = Maps()
            doors = Doors(database, calling.calls, maps, engine=name, shards=shards, overrides=overrides)
            singletons = SingletonRunner(
                load_singletons(conf, installed.entry_points("engine.singletons")),
                engine=name,
                contexts=doors.context,
                settings=settings.duties,
            )
            yield cls(
                conf=conf,
                name=name,
                shards=shards,
                settings=settings,
                installed=installed,
                secrets=secrets,
                database=database,
                drivers=drivers,
                maps=maps,
                calling=calling,
                doors=doors,
                singletons=singletons,
                overrides=overrides,
            )


@contextlib.asynccontextmanager
async def _drivers(conf: cfg.ConfigOpts, installed: Installed) -> AsyncIterator[dict[str, HostDriver]]:
    async with contextlib.AsyncExitStack() as stack:
        drivers: dict[str, HostDriver] = {}
        for name in conf.engine.drivers:
            kind = installed.load_class("engine.drivers", name)
            drivers[name] = kind(options.driver_values(conf, name, kind.options))
            stack.push_async_callback(drivers[name].close)
        yield drivers
