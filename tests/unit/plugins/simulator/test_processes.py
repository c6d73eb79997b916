"""How a fleet is split over processes."""

from __future__ import annotations

import pytest

from plugins.simulator.processes import split


@pytest.mark.parametrize(
    ("hosts", "a_process", "at_least", "sizes"),
    [
        (3, 5000, 1, [3]),
        (10_000, 4936, 1, [3333, 3333, 3334]),
        (10_000, 5000, 1, [5000, 5000]),
        (5, 5000, 2, [2, 3]),
        (2, 5000, 8, [1, 1]),
    ],
)
def test_shares_are_even_contiguous_and_within_the_limit(
    hosts: int, a_process: int, at_least: int, sizes: list[int]
) -> None:
    ports = range(20_000, 20_000 + hosts)
    shares = split(ports, a_process=a_process, at_least=at_least)
    assert [len(share) for share in shares] == sizes
    assert [port for share in shares for port in share] == list(ports)
