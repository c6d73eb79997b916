"""The witness must tell the truth: each of these logs holds one lie that it has to find, or none."""

from __future__ import annotations

import pytest

from plugins.simulator.log import ConnectionChange, Request
from plugins.simulator.witness import (
    Gap,
    asked_by_two,
    first_request_after,
    first_requests_after,
    gaps,
    lost_polls,
)


def asked(t: float, host: int = 1, engine: str = "a", epoch: int | None = 1) -> Request:
    return Request(t=t, host=host, engine=engine, epoch=epoch, verb="Host.getStats", id=str(t), op="")


# --- asked by two ---


def test_a_handover_to_a_later_epoch_is_nobodys_fault() -> None:
    assert (
        asked_by_two([asked(1), asked(2), asked(3, engine="b", epoch=2), asked(4, engine="b", epoch=2)]) == []
    )


def test_a_request_of_the_former_owner_after_the_heirs_first_is_found() -> None:
    newer, stale = asked(2, engine="b", epoch=2), asked(3, engine="a", epoch=1)
    (found,) = asked_by_two([asked(1), newer, stale, asked(4, engine="b", epoch=2)])
    assert found.request == stale
    assert found.newer == newer


def test_every_stale_request_is_found_not_only_the_first() -> None:
    log = [asked(1, engine="b", epoch=2), asked(2), asked(3), asked(4, engine="b", epoch=2), asked(5)]
    assert [found.request.t for found in asked_by_two(log)] == [2, 3, 5]


def test_one_engine_that_falls_back_to_an_older_epoch_of_its_own_is_found() -> None:
    log = [asked(1, epoch=2), asked(2, epoch=1)]
    assert [found.request.t for found in asked_by_two(log)] == [2]


def test_an_older_epoch_does_not_become_the_newest_by_being_last() -> None:
    log = [asked(1, engine="b", epoch=3), asked(2, epoch=1), asked(3, epoch=2)]
    assert [found.request.t for found in asked_by_two(log)] == [2, 3]


def test_hosts_are_judged_apart() -> None:
    assert (
        asked_by_two([asked(1, host=1, epoch=5), asked(2, host=2, epoch=1), asked(3, host=1, epoch=5)]) == []
    )


def test_two_engines_under_one_epoch_are_found() -> None:
    assert len(asked_by_two([asked(1, engine="a"), asked(2, engine="b")])) == 1


def test_one_engine_may_come_back_under_its_own_epoch() -> None:
    assert asked_by_two([asked(1, engine="a"), asked(9, engine="a")]) == []


def test_epochs_are_compared_as_numbers_of_64_bits() -> None:
    first, second = (1 << 32) | 9, (2 << 32) | 1
    assert asked_by_two([asked(1, epoch=first), asked(2, engine="b", epoch=second)]) == []
    assert len(asked_by_two([asked(1, epoch=second), asked(2, engine="b", epoch=first)])) == 1


def test_requests_without_an_epoch_and_connections_accuse_nobody() -> None:
    log: list[Request | ConnectionChange] = [
        asked(1, epoch=2),
        asked(2, engine="", epoch=None),
        ConnectionChange(3, 1, True, 4000),
        asked(4, epoch=2),
    ]
    assert asked_by_two(log) == []


def test_a_log_out_of_order_is_refused_rather_than_believed() -> None:
    with pytest.raises(ValueError, match="back in time"):
        asked_by_two([asked(2), asked(1)])


# --- gaps and lost polls ---


def test_the_longest_gap_of_each_host_is_found() -> None:
    log = [asked(0), asked(1, host=2), asked(3), asked(4), asked(9, host=2), asked(10), asked(10, host=2)]
    assert gaps(log, [1, 2], since=0, until=10) == {1: Gap(1, 4, 10), 2: Gap(2, 1, 9)}


def test_gaps_of_hosts_that_were_not_asked_for_are_left_out() -> None:
    assert list(gaps([asked(1, host=5), asked(2, host=1)], [1], since=0, until=3)) == [1]


def test_a_gap_counts_from_where_it_began_even_before_the_window() -> None:
    assert gaps([asked(1), asked(20), asked(21)], [1], since=15, until=22)[1] == Gap(1, 1, 20)


def test_a_gap_that_was_over_before_the_window_does_not_count() -> None:
    assert gaps([asked(0), asked(50), asked(51), asked(52)], [1], since=50.5, until=53)[1].seconds == 1


def test_a_host_that_is_never_asked_again_has_a_gap_to_the_end() -> None:
    assert gaps([asked(1), asked(2)], [1], since=0, until=60)[1] == Gap(1, 2, 60)


def test_a_host_that_was_never_asked_at_all_has_the_whole_window() -> None:
    assert gaps([asked(1)], [1, 7], since=0, until=30)[7] == Gap(7, 0, 30)


def test_requests_after_the_window_do_not_hide_a_gap() -> None:
    assert gaps([asked(1), asked(100)], [1], since=0, until=60)[1] == Gap(1, 1, 60)


def test_a_window_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValueError, match="before since"):
        gaps([], [1], since=2, until=1)


def test_a_poll_is_lost_only_beyond_a_period_and_one_tick() -> None:
    in_time, late = [asked(0), asked(18), asked(36)], [asked(0), asked(18.001), asked(36)]
    settings = {"period_seconds": 15.0, "tick_seconds": 3.0, "since": 0.0, "until": 40.0}
    assert lost_polls(in_time, [1], **settings) == []
    assert lost_polls(late, [1], **settings) == [Gap(1, 0, 18.001)]


def test_a_request_without_an_epoch_is_no_poll() -> None:
    log = [asked(0), asked(15, engine="", epoch=None), asked(30)]
    assert lost_polls(log, [1], period_seconds=15, tick_seconds=3, since=0, until=30) == [Gap(1, 0, 30)]


def test_lost_polls_name_the_hosts_in_order_and_only_those_asked_for() -> None:
    log = [asked(0, host=3), asked(0, host=2), asked(0, host=1), asked(30, host=2)]
    found = lost_polls(log, [3, 2], period_seconds=1, tick_seconds=1, since=0, until=40)
    assert [gap.host for gap in found] == [2, 3]


# --- the first request after a moment ---


def test_the_first_request_after_a_moment_is_later_than_it() -> None:
    log = [asked(1), asked(2), asked(3)]
    assert first_request_after(log, 1, 2) == log[2]
    assert first_request_after(log, 1, 3) is None
    assert first_request_after(log, 2, 0) is None


def test_the_first_request_of_a_given_owner_passes_over_the_others() -> None:
    log = [asked(1), asked(2, engine="b", epoch=2), asked(3, engine="c", epoch=3)]
    assert first_request_after(log, 1, 0, engine="b") == log[1]
    assert first_request_after(log, 1, 0, epoch=3) == log[2]
    assert first_request_after(log, 1, 0, newer_than=1) == log[1]
    assert first_request_after(log, 1, 0, engine="b", epoch=3) is None


def test_first_requests_leave_out_hosts_that_had_none() -> None:
    log = [asked(1, host=1), asked(2, host=2), asked(3, host=1)]
    assert first_requests_after(log, [1, 2, 3], 1) == {2: log[1], 1: log[2]}
