"""Every option that says that it takes effect at once does, through the file that is really rendered."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg
from oslo_log import log

from engine import options
from engine.api.app import feed_settings
from engine.config.catalogue import Declared, canonical
from engine.config.live import LiveConfiguration
from engine.config.settings import LiveSettings
from engine.config.shared import SharedConfiguration
from engine.coordination.session import Session, SessionSettings
from engine.hosts.options import MonitorSettings
from engine.service.settings import EngineSettings
from engine.singletons.loading import load_singletons
from plugins.drivers.vdsm.driver import VdsmDriver
from tests.contract.config.test_live import until

AT_A_RESTART = {
    # What was fixed when the cluster was made, or decides what code is loaded.
    "sharding.shards", "sharding.partitioner", "engine.drivers", "plugins.allow", "singletons.enabled",
    "singletons.disabled",
    # What was bound, opened or handed to somebody else's code at the start.
    "api.allow_unauthenticated", "api.graceful_seconds", "DEFAULT.default_log_levels",
    "DEFAULT.rate_limit_interval", "DEFAULT.rate_limit_burst",
}  # fmt: skip
"""A new option is mutable, or is named here with its reason; docs/configuration.md has the same list."""
OF_DRIVERS = "driver_"
"""Their own to decide: a driver is given its values when it is built."""

KNOWN = options.catalogue()
GROUPS = sorted({each.group for each in KNOWN if each.mutable and not each.local})


def another(declared: Declared) -> Any:
    """A value that is allowed and not the default."""
    option = declared.option
    if isinstance(option, cfg.BoolOpt):
        return not option.default
    if isinstance(option, cfg.ListOpt):
        return ["somebody"]
    kind: Any = option.type
    if choices := getattr(kind, "choices", None):
        return next(choice for choice in choices if choice != option.default)
    low = 0 if kind.min is None else kind.min
    high = low + 3 if kind.max is None else kind.max
    return next(value for value in (low + (1 if isinstance(option, cfg.IntOpt) else 0.5), low, high)
                if value != option.default and low <= value <= high)  # fmt: skip


@dataclass(frozen=True)
class Engine:
    """What the parts of an engine and of an API process are given, over one configuration."""

    live: LiveConfiguration
    settings: EngineSettings
    singletons: Mapping[str, Mapping[str, Any]]
    feed: Any
    hosts: list[MonitorSettings]
    drivers: Mapping[str, Mapping[str, Any]]

    def in_use(self, group: str) -> Any:
        """What whoever works with the options of the group reads."""
        given: dict[str, Callable[[], Any]] = {
            "DEFAULT": lambda: logging.getLogger().level,
            "api": lambda: dataclasses.asdict(self.feed),
            "commands": lambda: dataclasses.asdict(self.settings.commands),
            "engine": lambda: self.live.conf.engine.weight,
            "execution": lambda: dataclasses.asdict(self.settings.execution),
            "hosts": lambda: dataclasses.asdict(self.hosts[-1]),
            "scheduler": lambda: dataclasses.asdict(self.settings.jobs),
            "sharding": lambda: dataclasses.asdict(self.settings.ownership),
            "singletons": lambda: dataclasses.asdict(self.settings.duties),
        }
        if group.startswith(OF_DRIVERS):
            return dict(self.drivers[group.removeprefix(OF_DRIVERS)])
        if group.startswith("singleton_"):
            return dict(self.singletons[group.removeprefix("singleton_")])
        return given[group]()


@contextlib.contextmanager
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in list(root.manager.loggerDict)}
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for name in list(root.manager.loggerDict):
            logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))


@pytest.fixture
def engine(tmp_path: Path, settings: SessionSettings) -> Iterator[Engine]:
    file = tmp_path / "engine.conf"
    file.write_text("[plugins]\ndirectory = /nowhere\n")
    live = LiveConfiguration(
        [str(file)],
        tmp_path / "shared",
        catalogue=KNOWN,
        read=lambda files: options.read(files, program="engine"),
        name="engine-1",
        engine="engine-1",
    )
    conf = live.start(settings)
    hosts = [MonitorSettings.from_values(conf.hosts)]
    conf.register_mutate_hook(lambda conf, _: hosts.append(MonitorSettings.from_values(conf.hosts)))
    with logging_as_it_was():
        log.setup(conf, "engine")
        yield Engine(
            live,
            EngineSettings(conf, session_seconds=4.0),
            {plugin.name: plugin.values for plugin in load_singletons(conf).plugins},
            LiveSettings(conf).keep(lambda: feed_settings(conf)),
            hosts,
            {"vdsm": options.driver_values(conf, "vdsm", VdsmDriver.options)},
        )


@pytest.mark.parametrize("group", GROUPS)
async def test_what_is_said_to_take_effect_at_once_does(group: str, engine: Engine, session: Session) -> None:
    shared, live = SharedConfiguration(session), engine.live
    async with live.following(session):
        for declared in [each for each in KNOWN if each.group == group and each.mutable and not each.local]:
            before = engine.in_use(group)
            await shared.change({declared.key: canonical(declared, another(declared))}, user="")
            async with asyncio.timeout(30):
                while engine.in_use(group) == before:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            assert live.status.pending == (), declared.name
            await shared.change({declared.key: None}, user="")
            await until(lambda before=before: engine.in_use(group) == before)  # type: ignore[misc]


async def test_what_needs_a_restart_is_named_and_told_as_pending(engine: Engine, session: Session) -> None:
    named = {
        each.name
        for each in KNOWN
        if not each.mutable and not each.local and not each.group.startswith(OF_DRIVERS)
    }
    assert named == AT_A_RESTART
    assert not [each.name for each in KNOWN if each.mutable and each.local]
    docs = (Path(__file__).parents[3] / "docs/configuration.md").read_text()
    assert not [name for name in named if f"`{name}`" not in docs]
    wanted = {"api/graceful_seconds": b"7", "sharding/shards": b"7", "commands/concurrent": b"7"}
    async with engine.live.following(session):
        await SharedConfiguration(session).change(dict(wanted), user="")
        await until(lambda: engine.live.status.pending)
        assert engine.live.status.pending == ("api.graceful_seconds", "sharding.shards")
        assert engine.settings.commands.concurrent == 7


def test_what_may_be_set_for_the_hosts_of_one_cluster_takes_effect_at_once_and_is_documented() -> None:
    overridable = [each for each in KNOWN if each.per_cluster]
    groups = {each.group for each in overridable}
    assert {"hosts", "singleton_host_treatment", "singleton_balancing"} <= groups
    assert not [each.name for each in overridable if not each.mutable or each.local]
    docs = (Path(__file__).parents[3] / "docs/configuration.md").read_text()
    assert not [each.name for each in overridable if f"`{each.option.dest}`" not in docs]
