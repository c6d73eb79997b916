"""docs/plugins.md does what it says: its example is loaded as an installed package is, leads, and acts."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from oslo_config import cfg
from stevedore import ExtensionManager

from engine.coordination.local import LocalServer
from engine.db import events, migrate
from engine.db.database import Database
from engine.plugin import EngineId
from engine.singletons.loading import load_singletons
from engine.singletons.runner import SingletonRunner
from engine.testing.singletons import RecordedEvents, context
from tests.contract.election.members import member

PAGE = Path(__file__).parents[3] / "docs" / "plugins.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """What `pip install .` would leave behind: the module, and its metadata with the entry point."""
    module, test = blocks("python")
    (declared,) = blocks("toml")
    project = tomllib.loads(declared)["project"]
    (tmp_path / "roll_call.py").write_text(module)
    (tmp_path / "test_roll_call.py").write_text(test)
    metadata = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


async def test_the_example_is_found_leads_and_writes_its_event(
    package: Path, zookeeper: LocalServer, cluster_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.setattr(ExtensionManager, "ENTRY_POINT_CACHE", {})
    monkeypatch.setenv("OS_SINGLETON_ROLL_CALL__INTERVAL_SECONDS", "0.1")
    url = f"sqlite+aiosqlite:///{package}/engine.db"
    await migrate.upgrade(url)
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[])
    catalogue = load_singletons(conf)
    assert "roll_call" in {plugin.name for plugin in catalogue.plugins}
    async with Database(url) as database, member(zookeeper, cluster_name, "e1") as session:
        runner = SingletonRunner(
            catalogue,
            engine=EngineId("e1"),
            contexts=lambda plugin: replace(
                context(plugin.factory, {}, RecordedEvents()),
                engine=EngineId("e1"),
                options=plugin.values,
                events=events.EventStore(database, name=plugin.name, engine=EngineId("e1")),
            ),
        )
        async with runner.serving(session, incarnation=1), asyncio.timeout(20):
            found: list[events.Event] = []
            while len(found) < 2:
                async with database.reading() as connection:
                    found = await events.page(connection, limit=10, kind="roll_call")
    assert {event.message for event in found} == {"e1 leads"}
    newest, first = [event.data["beat"] for event in found][-2:]
    assert newest > first == 0


def test_the_example_passes_its_own_test(package: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_roll_call.py"],
        cwd=package,
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"\d+ passed", ran.stdout)


def test_the_example_is_as_short_as_promised() -> None:
    assert len([line for line in blocks("python")[0].splitlines() if line.strip()]) <= 20
