from __future__ import annotations

from engine.singletons.backoff import BackOff


def test_the_rest_doubles_from_a_second_to_a_minute() -> None:
    back_off = BackOff()
    assert [back_off.seconds(n, 0.5) for n in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_the_rest_is_spread_by_a_quarter_each_way() -> None:
    back_off = BackOff()
    assert back_off.seconds(3, 0.0) == 3.0
    assert back_off.seconds(3, 1.0) == 5.0


def test_a_thousand_failures_do_not_overflow() -> None:
    assert BackOff().seconds(100_000, 0.5) == 60
