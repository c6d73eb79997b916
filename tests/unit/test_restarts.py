"""A supervisor takes its time where engines are silent again and again, and is quick where one is once."""

from __future__ import annotations

from engine.supervisor import FORGIVING_SECONDS, SILENT_BACKOFF_SECONDS, STEADY_SECONDS, Restarts


def pauses(*runs: tuple[float, bool], chance: float = 0.5) -> list[float]:
    restarts = Restarts(lambda: chance)
    return [restarts.pause_seconds(lasted_seconds=lasted, silent=silent) for lasted, silent in runs]


def test_an_engine_that_is_silent_once_is_back_at_once() -> None:
    assert pauses((30, True)) == [0.2]


def test_a_storm_of_silent_engines_dies_down_though_each_run_lasts_for_minutes() -> None:
    assert pauses(*[(90, True)] * 7) == [0.2, 2, 8, 20, 40, 60, 60]


def test_silence_is_forgiven_by_long_runs_one_by_one() -> None:
    long, ages = FORGIVING_SECONDS, 100 * FORGIVING_SECONDS
    assert pauses((9, True), (9, True), (9, True), (long, True)) == [0.2, 2, 8, 8]
    assert pauses((9, True), (9, True), (9, True), (2 * long, True)) == [0.2, 2, 8, 2]
    assert pauses((9, True), (9, True), (9, True), (ages, True)) == [0.2, 2, 8, 0.2]


def test_engines_of_one_machine_do_not_come_back_together() -> None:
    second = SILENT_BACKOFF_SECONDS[1]
    assert pauses((9, True), (9, True), chance=0.0)[1] == second / 2
    assert pauses((9, True), (9, True), chance=0.99)[1] > second * 1.4


def test_an_engine_that_ends_by_itself_waits_longer_each_time_until_it_was_steady() -> None:
    assert pauses(*[(1, False)] * 8) == [0.2, 0.5, 1, 2, 5, 10, 10, 10]
    assert pauses((1, False), (1, False), (STEADY_SECONDS + 1, False)) == [0.2, 0.5, 0.2]


def test_ends_and_silences_are_counted_apart() -> None:
    assert pauses((1, True), (1, False), (1, True), (1, False)) == [0.2, 0.2, 2, 0.5]
