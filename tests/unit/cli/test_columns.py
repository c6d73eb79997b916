from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from engine.cli.columns import local_time, one, shown, table


@pytest.fixture
def vienna(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("vienna")
def test_a_person_reads_local_time_and_a_program_what_the_api_said() -> None:
    moment = "2026-07-01T22:30:00.123456Z"
    assert shown(moment, "table", True) == "2026-07-02 00:30:00"
    assert {shown(moment, output, True) for output in ("json", "yaml", "csv", "value", "shell")} == {moment}


@pytest.mark.usefixtures("vienna")
def test_a_time_without_a_zone_is_taken_as_utc() -> None:
    assert local_time("2026-01-01T00:00:00") == "2026-01-01 01:00:00"


def test_what_is_absent_is_a_dash_for_people_and_null_for_programs() -> None:
    assert [shown(None, output) for output in ("table", "json", "csv")] == ["-", None, None]
    assert shown("", "table") == "-"
    assert shown(None, "table", True) == "-"


def test_zero_is_not_absent() -> None:
    assert shown(0, "table") == 0


def test_structures_are_readable_in_a_table_and_json_in_csv() -> None:
    statistics = {"vm_count": 3, "load": None, "levels": ["4.6", "4.7"]}
    assert shown(statistics, "table") == "vm_count: 3\nload: -\nlevels: 4.6, 4.7"
    assert shown(statistics, "csv") == '{"vm_count": 3, "load": null, "levels": ["4.6", "4.7"]}'
    assert shown(statistics, "json") is statistics


def test_a_list_has_the_columns_asked_for_in_their_order_whatever_the_api_adds() -> None:
    items: list[dict[str, object]] = [{"b": 1, "new": "x", "a": "y"}, {"a": None}]
    assert table(items, ("a", "b"), output="csv") == (("a", "b"), [["y", 1], [None, None]])


def test_one_item_is_shown_with_all_its_fields() -> None:
    assert one({"id": "x", "on": True}, output="table") == (("id", "on"), ["x", "yes"])
