"""How a singleton is shown to people: a row an engine, and the latest fault with its traceback."""

from __future__ import annotations

from typing import Any

from engine.cli.singletons import for_people

QUIET: dict[str, Any] = {
    "state": "waiting",
    "since": "2026-01-02T03:04:05+00:00",
    "shards": None,
    "token": None,
    "failures": 0,
    "failed_at": None,
    "yielding": False,
    "tasks_left": 0,
    "fault": "",
    "details": "",
}


def engine(name: str, **more: object) -> dict[str, Any]:
    return {**QUIET, "engine": name, **more}


def shown(*engines: dict[str, Any]) -> dict[str, Any]:
    return for_people({"name": "duty", "leader": "a", "engines": list(engines)})


def test_each_engine_has_a_row_that_says_how_it_fares() -> None:
    found = shown(
        engine("a", state="running", token=7),
        engine("b", state="resting", failures=3, yielding=True, tasks_left=1),
        engine("c", state="running", shards=4),
    )
    assert found["on a"].startswith("running since 2026-01-0")
    assert found["on a"].endswith(", token 7")
    assert found["on b"].endswith(", 3 failures in a row, yields to the others, 1 tasks left behind")
    assert found["on c"].endswith(", on 4 shards")
    assert "engines" not in found
    assert "last fault" not in found


def test_the_latest_fault_comes_last_with_its_traceback() -> None:
    found = shown(
        engine("a", fault="OSError: old", failed_at="2026-01-02T03:04:05+00:00", details="old\n"),
        engine("b", fault="OSError: new", failed_at="2026-01-02T04:04:05+00:00", details="Traceback\nnew\n"),
    )
    assert found["last fault"] == "on b: OSError: new"
    assert found["traceback"] == "Traceback\nnew"
    assert list(found)[-1] == "traceback"


def test_a_refusal_has_no_time_but_is_told() -> None:
    found = shown(engine("a", state="refused", fault="it cannot be imported: ImportError: x"))
    assert found["last fault"] == "on a: it cannot be imported: ImportError: x"
