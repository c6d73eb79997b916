"""An engine whose sessions end comes back soon, and storms no ZooKeeper that lets it in and drops it."""

from __future__ import annotations

from engine.coordination.reopening import LASTED_SECONDS, PAUSES_SECONDS, Reopening


def test_each_session_that_fails_soon_is_followed_by_a_longer_pause_up_to_the_longest() -> None:
    reopening = Reopening(jitter=lambda: 1.0)
    paused = [reopening.pause_seconds(0.0) for _ in range(len(PAUSES_SECONDS) + 2)]
    assert paused == [*PAUSES_SECONDS, PAUSES_SECONDS[-1], PAUSES_SECONDS[-1]]


def test_after_a_session_that_lasted_the_next_is_opened_soon_however_many_were_lost_before() -> None:
    reopening = Reopening(jitter=lambda: 1.0)
    for _ in range(10):
        reopening.pause_seconds(0.0)
    assert reopening.pause_seconds(LASTED_SECONDS) == PAUSES_SECONDS[0]
    assert reopening.pause_seconds(0.0) == PAUSES_SECONDS[1]
