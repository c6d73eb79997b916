"""docs/maps-and-tasks.md does what it says: its example is run by real engines, and passes its own test."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from oslo_config import cfg

from engine.coordination.session import SessionSettings
from engine.db.database import Database
from engine.execution.catalogue import load_tasks
from engine.plugin import ClusteredMap
from engine.singletons.loading import load_singletons
from engine.singletons.runner import SingletonRunner
from engine.state.maps import Maps
from engine.testing.singletons import RecordedEvents, context
from tests.contract.coordination.conftest import until
from tests.contract.execution.engines import Engine, engine_on
from tests.databases import SqliteFiles

PAGE = Path(__file__).parents[3] / "docs" / "maps-and-tasks.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    module, test = blocks("python")
    (tmp_path / "disk_watch.py").write_text(module)
    (tmp_path / "test_disk_watch.py").write_text(test)
    return tmp_path


def declared() -> list[EntryPoint]:
    (text,) = blocks("toml")
    groups = tomllib.loads(text)["project"]["entry-points"]
    return [
        EntryPoint(name, value, group) for group, names in groups.items() for name, value in names.items()
    ]


async def test_the_example_asks_all_engines_and_keeps_their_answers(
    package: Path,
    settings: SessionSettings,
    sqlite_files: SqliteFiles,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.setenv("OS_SINGLETON_DISK_WATCH__INTERVAL_SECONDS", "0.1")
    monkeypatch.setenv("OS_SINGLETON_DISK_WATCH__LEAST_PERCENT", "101")
    example = importlib.import_module("disk_watch")
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[])
    singletons = load_singletons(conf, [ep for ep in declared() if ep.group == "engine.singletons"])
    tasks = load_tasks([ep for ep in declared() if ep.group == "engine.tasks"])
    told = RecordedEvents()
    maps = Maps()

    def runner(engine: Engine) -> SingletonRunner:
        return SingletonRunner(
            singletons,
            engine=engine.name,
            contexts=lambda plugin: replace(
                context(plugin.factory, {}, told),
                engine=engine.name,
                options=plugin.values,
                calls=engine.calls,
                maps=maps,
            ),
        )

    with sqlite_files.migrated(package) as url:
        async with (
            Database(url) as database,
            engine_on(settings, "a", database, tasks=tasks) as a,
            engine_on(settings, "b", database, tasks=tasks),
            maps.serving(a.session),
            runner(a).serving(a.session, incarnation=1),
            maps.open("disk_free", example.Free) as free,
        ):
            await until(lambda: _known(free) == {"a", "b"}, seconds=20)
            await until(lambda: told.recorded)
            assert 0 < free["a"].percent <= 100
    assert {kind for kind, _message, _data in told.recorded} == {"disk_short"}


def _known(free: ClusteredMap[object]) -> set[str]:
    return set(free)


async def test_the_example_passes_its_own_test(package: Path) -> None:
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_disk_watch.py"],
        cwd=package,
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"\d+ passed", ran.stdout)


def test_what_the_page_names_is_there() -> None:
    root = PAGE.parents[1]
    for name in re.findall(r"`((?:tests|engine|plugins)/[\w/.]+)`", PAGE.read_text()):
        assert (root / name).exists(), name
