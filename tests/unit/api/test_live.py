"""The numbers of several engines together."""

from __future__ import annotations

from engine.api.live import total


def test_sums_add_up_and_of_what_cannot_be_added_the_worst_is_told() -> None:
    one = {"hosts": 3, "loop_lag_seconds_p99": 0.2, "authority_seconds": 2.5, "map_entries:rooms": 7}
    other = {"hosts": 4, "loop_lag_seconds_p99": 0.1, "authority_seconds": 1.5, "map_entries:rooms": 7}
    assert total([one, other]) == {
        "hosts": 7,
        "loop_lag_seconds_p99": 0.2,
        "authority_seconds": 1.5,
        "map_entries:rooms": 7,
    }
    assert total([]) == {}
