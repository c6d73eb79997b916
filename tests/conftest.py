"""One private ZooKeeper server for all tests of a run, and a tree of its own for each test."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from engine.coordination.local import LocalServer

_numbers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "soak: full size; deselected unless asked for with -m soak")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "soak" in (config.option.markexpr or ""):
        return
    soak = [item for item in items if item.get_closest_marker("soak")]
    if soak:
        config.hook.pytest_deselected(items=soak)
        items[:] = [item for item in items if item not in soak]


@pytest.fixture(scope="session")
def zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server that all tests share; whoever stops, freezes or wipes one takes `own_zookeeper`."""
    with LocalServer(tmp_path_factory.mktemp("zookeeper")) as server:
        yield server


@pytest.fixture
def own_zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server of this test alone."""
    with LocalServer(tmp_path_factory.mktemp("own-zookeeper")) as server:
        yield server


@pytest.fixture
def cluster_name() -> str:
    """A cluster name that no other test uses (`Paths(cluster_name)`)."""
    return f"test-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def chroot(cluster_name: str) -> str:
    """A root path that no other test uses; nobody has created it."""
    return f"/{cluster_name}"
