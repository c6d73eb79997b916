"""Server-sent events as the standard has them."""

from __future__ import annotations

import pytest

from engine.cli.streams import Message, parse


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["data: x", ""], [Message("", "x")]),
        (["id: 1", "data: x", "", "data: y", ""], [Message("1", "x"), Message("1", "y")]),
        (["data:x", "data: y", ""], [Message("", "x\ny")]),
        ([": nothing new", "id: 7", ""], [Message("7", "")]),
        ([": nothing new", "", "retry: 1000", "", "event: k", ""], []),
        (["data: cut off"], []),
        (["data: a:b: c", ""], [Message("", "a:b: c")]),
    ],
)
def test_a_stream_is_taken_apart(lines: list[str], found: list[Message]) -> None:
    assert list(parse(lines)) == found
