from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine.config.cache import CachedValues, CacheUnusable, default_file, load, save
from engine.config.driver import age

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEPT = CachedValues("zk1:2181/engine/default/config", AT, {"a/b": b"\xff raw", "c/d": b"1"})


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "new" / "cache.json"
    save(file, KEPT)
    assert load(file, KEPT.source) == KEPT


def test_nobody_else_may_read_the_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "cache.json"
    before = os.umask(0)
    try:
        save(file, KEPT)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_later_copy_replaces_the_former_and_leaves_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "cache.json"
    save(file, KEPT)
    later = CachedValues(KEPT.source, AT + timedelta(days=1), {"a/b": b"2"})
    save(file, later)
    assert load(file, KEPT.source) == later
    assert [path.name for path in tmp_path.iterdir()] == ["cache.json"]


def test_a_copy_that_others_may_write_is_not_trusted(tmp_path: Path) -> None:
    file = tmp_path / "cache.json"
    save(file, KEPT)
    file.chmod(0o620)
    with pytest.raises(CacheUnusable, match="open to others"):
        load(file, KEPT.source)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"source": "s", "read_at": "yesterday", "values": {}}',
        b'{"source": "s", "read_at": "2026-01-02T03:04:05", "values": {}}',
        b'{"source": "s", "read_at": "2026-01-02T03:04:05+00:00", "values": {"a/b": "%%"}}',
        b'{"source": "s", "read_at": "2026-01-02T03:04:05+00:00", "values": []}',
    ],
)
def test_a_damaged_copy_is_refused_as_such(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "cache.json"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(CacheUnusable, match="damaged"):
        load(file, "s")


def test_a_copy_of_another_cluster_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / "cache.json"
    save(file, KEPT)
    with pytest.raises(CacheUnusable, match="is of zk1:2181/engine/default/config, not of elsewhere"):
        load(file, "elsewhere")


def test_the_place_of_the_file_follows_systemd_then_xdg_then_home() -> None:
    everything = {"CACHE_DIRECTORY": "/var/cache/engine:/x", "XDG_CACHE_HOME": "/xdg", "HOME": "/home/u"}
    places = []
    for name in (*everything, "none"):
        file = default_file("source", everything)
        places.append(str(file.parent) if file else None)
        everything.pop(name, None)
    assert places == ["/var/cache/engine", "/xdg/engine", "/home/u/.cache/engine", None]


def test_two_sources_have_two_files() -> None:
    assert default_file("one", {"HOME": "/h"}) != default_file("two", {"HOME": "/h"})


@pytest.mark.parametrize(
    ("passed", "shown"),
    [
        (timedelta(seconds=0.4), "0 s"),
        (timedelta(seconds=-5), "0 s"),
        (timedelta(seconds=8), "8 s"),
        (timedelta(minutes=12), "12 min"),
        (timedelta(hours=5, minutes=10, seconds=3), "5 h 10 min"),
        (timedelta(days=3, hours=4, minutes=5), "3 d 4 h"),
    ],
)
def test_an_age_is_told_in_its_two_largest_units(passed: timedelta, shown: str) -> None:
    assert age(passed) == shown
