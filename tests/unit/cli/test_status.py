from __future__ import annotations

from typing import Any

from engine.cli.status import screen


def status(**changes: Any) -> dict[str, Any]:
    member = {
        "engine": "engine-1",
        "state": "up",
        "shards_owned": 256,
        "pid": 7,
        "started": "2026-01-02T03:04:05Z",
    }
    event = {"id": 2, "at": "2026-01-02T03:04:06Z", "message": "host a: up"}
    base = {
        "api": "http://127.0.0.1:8420",
        "members": [member],
        "shards": {"total": 256, "owned": 256},
        "hosts": {"connecting": 1, "up": 23},
        "events": [event, {**event, "id": 1, "message": "host a: added"}],
    }
    return {**base, **changes}


def test_the_screen_tells_hosts_by_status_most_frequent_first() -> None:
    assert "Hosts    24: 23 up, 1 connecting\n" in screen(status())


def test_shards_without_an_owner_stand_out() -> None:
    assert "256 of 256 owned\n" in screen(status())
    assert "200 of 256 owned, 56 WITHOUT OWNER\n" in screen(status(shards={"total": 256, "owned": 200}))


def test_the_newest_event_comes_last() -> None:
    text = screen(status())
    assert text.index("host a: added") < text.index("host a: up")


def test_an_empty_cluster_is_told_in_words() -> None:
    text = screen(status(members=[], hosts={}, events=[], shards={"total": 256, "owned": 0}))
    assert "No engine is up." in text
    assert "Hosts    0\n" in text
    assert "No events yet." in text
