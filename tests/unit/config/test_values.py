from __future__ import annotations

from typing import Any

import pytest
from oslo_config import cfg, types

from engine.config.values import check, decode

TEXT = cfg.StrOpt("o")
NUMBER = cfg.IntOpt("o", min=1)
SEVERAL = cfg.MultiStrOpt("o")
LIST = cfg.ListOpt("o")
NUMBERS = cfg.ListOpt("o", item_type=types.Integer())
DICT = cfg.DictOpt("o")
FLAG = cfg.BoolOpt("o")


@pytest.mark.parametrize(
    ("data", "opt", "value"),
    [
        (b"info", TEXT, "info"),
        (b"info\n", TEXT, "info"),
        (b'"info"', TEXT, "info"),
        (b'" kept "', TEXT, " kept "),
        (b"1.50", TEXT, "1.50"),
        (b"0123", TEXT, "0123"),
        (b"12345678901234567890.10", TEXT, "12345678901234567890.10"),
        (b"true", TEXT, "true"),
        (b"[::1]:2181", TEXT, "[::1]:2181"),
        ("größer".encode(), TEXT, "größer"),
        (b"30", NUMBER, "30"),
        (b'"30"', NUMBER, "30"),
        (b"true", FLAG, "true"),
        (b'["a", "b,c"]', LIST, ["a", "b,c"]),
        (b"a,b", LIST, "a,b"),
        (b"[1, 2]", NUMBERS, ["1", "2"]),
        (b'["a", true, 1.50]', SEVERAL, ["a", "true", "1.50"]),
        (b"one", SEVERAL, ["one"]),
        (b'{"a": 1, "b": "c"}', DICT, {"a": "1", "b": "c"}),
        (b"a:1,b:c", DICT, "a:1,b:c"),
        (b"", TEXT, ""),
    ],
)
def test_json_and_plain_text_come_as_a_file_would_give_them(data: bytes, opt: cfg.Opt, value: Any) -> None:
    assert decode(data, opt) == value
    check(decode(data, opt), opt)


@pytest.mark.parametrize(
    ("data", "opt", "reason"),
    [
        (b"\xff\xfe", TEXT, "not UTF-8"),
        (b"null", TEXT, "null"),
        (b'["a"]', TEXT, "a JSON list, where a string value is expected"),
        (b'{"a": 1}', TEXT, "a JSON object, where a string value is expected"),
        (b'{"a": 1}', LIST, "a JSON object"),
        (b"[1]", NUMBER, "a JSON list, where a integer value is expected"),
    ],
)
def test_what_cannot_be_meant_for_the_option_is_refused(data: bytes, opt: cfg.Opt, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode(data, opt)


@pytest.mark.parametrize(
    ("value", "opt"), [("fast", NUMBER), ("0", NUMBER), (["x"], NUMBERS), ("maybe", FLAG)]
)
def test_what_oslo_config_would_refuse_is_refused(value: Any, opt: cfg.Opt) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - oslo.config's own words
        check(value, opt)


def test_a_template_is_left_for_oslo_config_to_fill() -> None:
    check("$other", NUMBER)
