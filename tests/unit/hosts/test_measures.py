"""A distribution's quantiles are right to within the width of a bucket."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.hosts.measures import Distribution


@given(st.lists(st.floats(0.0005, 100), min_size=1, max_size=200), st.sampled_from([0.5, 0.99, 1.0]))
def test_a_quantile_is_at_most_a_quarter_above_the_truth(values: list[float], share: float) -> None:
    distribution = Distribution()
    for value in values:
        distribution.observe(value)
    truth = sorted(values)[max(0, -(-int(share * 100) * len(values) // 100) - 1)]
    assert truth <= distribution.quantile(share) * 1.0001
    assert distribution.quantile(share) <= truth * 1.2501
    assert distribution.maximum == max(values)
    assert distribution.count == len(values) == sum(distribution.buckets)


def test_an_empty_distribution_is_zero_and_a_huge_value_is_kept() -> None:
    distribution = Distribution()
    assert distribution.quantile(0.99) == 0.0
    distribution.observe(1e6)
    assert distribution.quantile(0.99) == 1e6
