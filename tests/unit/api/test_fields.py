"""Taking a client's values apart: all that is wrong is told at once."""

from __future__ import annotations

from typing import Any

import pytest

from engine.api.fields import Fields, integer, several, text
from engine.errors import InvalidInput


def wrong(values: dict[str, Any]) -> dict[str, str]:
    def parse() -> None:
        with Fields(values) as fields:
            fields.take("name", text)
            fields.take("port", integer(1, 10), default=5)

    with pytest.raises(InvalidInput) as caught:
        parse()
    return caught.value.fields


def test_good_values_come_back_checked_and_defaults_where_nothing_was_sent() -> None:
    with Fields({"name": "a", "number": "7", "nothing": None}) as fields:
        found = (
            fields.take("name", text),
            fields.take("number", integer(1, 10)),
            fields.take("nothing", text, default="d"),
            fields.take("absent", text, default=None),
        )
    assert found == ("a", 7, "d", None)


def test_every_bad_missing_and_unknown_field_is_named() -> None:
    assert wrong({"port": 11, "color": "red"}) == {
        "name": "is required",
        "port": "must be a whole number from 1 to 10",
        "color": "is unknown; allowed: name, port",
    }


@pytest.mark.parametrize("value", [0, 11, True, 1.0, "x", "1.0", "-1", "", "²", [], {}, "1" * 30])
def test_what_is_no_number_in_range_is_refused(value: object) -> None:
    assert list(wrong({"name": "a", "port": value})) == ["port"]


@pytest.mark.parametrize("value", ["", 1, [], {}, False])
def test_what_is_no_text_is_refused(value: object) -> None:
    assert list(wrong({"name": value})) == ["name"]


def test_a_parameter_given_once_or_several_times_is_a_tuple() -> None:
    with Fields({"one": "1", "two": ["1", "2"]}) as fields:
        assert fields.take("one", several(text)) == ("1",)
        assert fields.take("two", several(integer(0, 9))) == (1, 2)


def test_an_error_of_the_block_itself_is_not_hidden() -> None:
    with pytest.raises(KeyError), Fields({"unknown": 1}):
        raise KeyError


def test_a_hostile_field_name_is_told_in_part_only() -> None:
    told = wrong({"name": "a", "x" * 100_000: 1})
    assert all(len(name) <= 100 for name in told)
