"""Who counts as a member: leaving at once, joining after a short wait."""

from __future__ import annotations

from engine.plugin import EngineId
from engine.sharding.roster import Roster

A, B, C = EngineId("a"), EngineId("b"), EngineId("c")


def test_a_newcomer_counts_after_the_debounce() -> None:
    roster = Roster(lambda: 1.0)
    assert roster.admit({A: 1}, now=10.0) == set()
    assert roster.due == 11.0
    assert roster.admit({A: 1}, now=11.0) == {A}
    assert roster.due is None


def test_newcomers_within_the_debounce_come_together() -> None:
    roster = Roster(lambda: 1.0)
    roster.admit({A: 1}, now=10.0)
    assert roster.admit({A: 1, B: 2}, now=10.9) == set()
    assert roster.admit({A: 1, B: 2}, now=11.5) == set()
    assert roster.admit({A: 1, B: 2}, now=11.9) == {A, B}


def test_an_endless_stream_of_newcomers_does_not_put_them_off_for_ever() -> None:
    roster = Roster(lambda: 1.0)
    present = {EngineId(str(n)): n for n in range(5)}
    for n in range(4):
        roster.admit(dict(list(present.items())[: n + 1]), now=10.0 + 0.8 * n)
    assert roster.admit(present, now=13.2) == set(present)


def test_a_death_counts_at_once_even_while_newcomers_wait() -> None:
    roster = Roster(lambda: 1.0)
    roster.admit({A: 1, B: 2}, now=10.0)
    roster.admit({A: 1, B: 2}, now=11.0)
    assert roster.admit({A: 1, B: 2, C: 3}, now=12.0) == {A, B}
    assert roster.admit({A: 1, C: 3}, now=12.1) == {A}


def test_a_restarted_engine_is_a_newcomer() -> None:
    roster = Roster(lambda: 1.0)
    roster.admit({A: 1}, now=10.0)
    roster.admit({A: 1}, now=11.0)
    assert roster.admit({A: 7}, now=20.0) == set()
    assert roster.admit({A: 7}, now=21.0) == {A}


def test_without_a_debounce_a_newcomer_counts_at_once() -> None:
    assert Roster(lambda: 0.0).admit({A: 1}, now=10.0) == {A}
