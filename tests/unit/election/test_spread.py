"""The spread of singletons over engines, by properties."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from engine.election.spread import Offer, rankings
from engine.plugin import EngineId

ENGINES = st.integers(1, 7).map(lambda count: [EngineId(f"engine-{n}") for n in range(count)])
NAMES = st.integers(0, 40).map(lambda count: frozenset(f"duty_{n}" for n in range(count)))


def all_offer(engines: list[EngineId], names: frozenset[str]) -> list[Offer]:
    return [Offer(engine=engine, names=names) for engine in engines]


@st.composite
def uneven(draw: st.DrawFn) -> list[Offer]:
    offers = []
    for engine in draw(ENGINES):
        names = frozenset(draw(st.sets(st.sampled_from([f"duty_{n}" for n in range(12)]))))
        unwell = frozenset(draw(st.sets(st.sampled_from(sorted(names)))) if names else ())
        offers.append(Offer(engine=engine, names=names, reluctant=unwell))
    return offers


@given(ENGINES, NAMES)
def test_each_engine_leads_its_equal_share(engines: list[EngineId], names: frozenset[str]) -> None:
    firsts = Counter(ranking[0] for ranking in rankings(all_offer(engines, names), {}).values())
    counts = [firsts[engine] for engine in engines]
    assert sum(counts) == len(names)
    assert max(counts) - min(counts) <= 1


def test_twelve_singletons_on_three_engines_are_four_each() -> None:
    names = frozenset(f"singleton_{n}" for n in range(12))
    ranked = rankings(all_offer([EngineId(f"engine-{n}") for n in (1, 2, 3)], names), {})
    assert set(Counter(ranking[0] for ranking in ranked.values()).values()) == {4}


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), NAMES)
def test_each_engine_leads_its_share_by_weight(weights: list[int], names: frozenset[str]) -> None:
    engines = {EngineId(f"engine-{n}"): weight for n, weight in enumerate(weights)}
    offers = [Offer(engine=engine, names=names, weight=weight) for engine, weight in engines.items()]
    firsts = Counter(ranking[0] for ranking in rankings(offers, {}).values())
    for engine, weight in engines.items():
        share = len(names) * weight / sum(weights)
        assert int(share) <= firsts[engine] <= int(share) + 1


def test_an_engine_of_double_weight_leads_twice_as_many() -> None:
    names = frozenset(f"singleton_{n}" for n in range(12))
    heavy, light = EngineId("engine-1"), EngineId("engine-2")
    offers = [Offer(engine=heavy, names=names, weight=2), Offer(engine=light, names=names)]
    assert Counter(ranking[0] for ranking in rankings(offers, {}).values()) == {heavy: 8, light: 4}


@given(uneven(), st.randoms(use_true_random=False))
def test_whoever_sees_the_same_computes_the_same(offers: list[Offer], chance: random.Random) -> None:
    shuffled = offers.copy()
    chance.shuffle(shuffled)
    assert rankings(offers, {}) == rankings(shuffled, {})


@given(uneven())
def test_all_who_offer_a_singleton_are_ranked_once_and_the_reluctant_last(offers: list[Offer]) -> None:
    ranked = rankings(offers, {})
    for name in frozenset[str]().union(*(offer.names for offer in offers)):
        offering = {offer.engine for offer in offers if name in offer.names}
        unwell = {offer.engine for offer in offers if name in offer.reluctant}
        assert len(ranked[name]) == len(offering)
        assert set(ranked[name]) == offering
        assert set(ranked[name][len(offering) - len(unwell) :]) == unwell


@given(uneven(), st.integers(0, 6))
def test_whom_the_operator_prefers_comes_first_where_it_offers(offers: list[Offer], number: int) -> None:
    engine = EngineId(f"engine-{number}")
    ranked = rankings(offers, {f"duty_{n}": engine for n in range(12)})
    for name, ranking in ranked.items():
        if engine in ranking:
            assert ranking[0] == engine, name


@given(ENGINES, NAMES, st.integers(0, 6))
def test_what_is_preferred_counts_to_the_share(
    engines: list[EngineId], names: frozenset[str], number: int
) -> None:
    engine = engines[number % len(engines)]
    pinned = sorted(names)[: len(names) // len(engines)]
    ranked = rankings(all_offer(engines, names), dict.fromkeys(pinned, engine))
    counts = Counter(ranking[0] for ranking in ranked.values())
    assert max(counts.values(), default=0) - min((counts[e] for e in engines), default=0) <= 1


def test_what_nobody_offers_is_not_ranked() -> None:
    assert rankings([], {"duty": EngineId("e1")}) == {}


def test_an_engine_that_joins_takes_its_share_and_moves_little_else() -> None:
    names = frozenset(f"singleton_{n}" for n in range(60))
    before = rankings(all_offer([EngineId(f"engine-{n}") for n in range(3)], names), {})
    after = rankings(all_offer([EngineId(f"engine-{n}") for n in range(4)], names), {})
    moved = [name for name in names if before[name][0] != after[name][0]]
    assert 15 <= len(moved) <= 25, "fifteen are the newcomer's"
