"""What may be locked, and what is said about what may not."""

from __future__ import annotations

import pytest

from engine.errors import InvalidInput
from engine.locks.keys import MAX_KEY, MAX_KEYS, Mode, Wanted, checked_key


def test_keys_come_in_one_order_whatever_set_they_were_in() -> None:
    wanted = Wanted.of({"vm:2", "vm:1"}, {"host:1"})
    assert list(wanted.modes.items()) == [
        ("host:1", Mode.SHARED),
        ("vm:1", Mode.EXCLUSIVE),
        ("vm:2", Mode.EXCLUSIVE),
    ]


@pytest.mark.parametrize(
    "key", ["vm:1", "vm:8f14e45f-ceea-467f-a8f1-0000", "network:büro 1", "a:" + "x" * (MAX_KEY - 2)]
)
def test_these_are_keys(key: str) -> None:
    assert checked_key(key) == key


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("", "<type>:<id>"),
        ("vm", "<type>:<id>"),
        (":1", "<type>:<id>"),
        ("vm:", "<type>:<id>"),
        ("vm:a/b", "may not hold '/'"),
        ("vm:a\nb", "printable"),
        ("vm:\ud800", "printable"),
        ("vm:" + "x" * 297, "at most 200 characters, this one 300"),
    ],
)
def test_these_are_none_and_it_is_said_why(key: str, wrong: str) -> None:
    with pytest.raises(InvalidInput, match=wrong) as refused:
        checked_key(key)
    assert refused.value.fields.keys() == {"key"}
    assert len(str(refused.value)) < 200


def test_a_key_in_both_sets_is_refused() -> None:
    with pytest.raises(InvalidInput, match="vm:1 is asked for exclusively and shared at once"):
        Wanted.of({"vm:1"}, {"vm:1"})


def test_nothing_to_lock_is_refused() -> None:
    with pytest.raises(InvalidInput, match="both sets are empty"):
        Wanted.of((), ())


def test_one_string_is_no_set_of_keys() -> None:
    with pytest.raises(InvalidInput, match="is one key"):
        Wanted.of("vm:1", ())


def test_too_many_keys_are_refused_before_zookeeper_is_asked() -> None:
    with pytest.raises(InvalidInput, match=f"at most {MAX_KEYS}"):
        Wanted.of({f"vm:{n}" for n in range(MAX_KEYS + 1)}, ())
