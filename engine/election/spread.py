"""Which engine should lead which singleton: a pure function of what all engines see, so nobody decides.

Rendezvous hashing draws each singleton to an engine, and quotas (floor or ceiling of a share by weight, as
shards have) keep the counts level: 12 singletons on 3 engines are 4 each. It has no memory; whoever sees
the same offers and preferences computes the same. Called by `engine.singletons.board`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from engine.plugin import EngineId

Ranking = tuple[EngineId, ...]
"""Who should lead one singleton, the best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The singletons that an engine is ready to lead; `reluctant` those of them that failed there. `weight`:
    its share beside those of the others."""

    engine: EngineId
    names: frozenset[str]
    reluctant: frozenset[str] = frozenset()
    weight: int = 1


def rankings(offers: Collection[Offer], preferred: Mapping[str, EngineId]) -> Mapping[str, Ranking]:
    """For each singleton that is offered, all engines that offer it.

    First whom an operator prefers, then whom the spread chose, then by rendezvous score; last those that
    are reluctant.
    """
    willing = _by_name((offer.engine, offer.names - offer.reluctant) for offer in offers)
    reluctant = _by_name((offer.engine, offer.names & offer.reluctant) for offer in offers)
    names = sorted(willing.keys() | reluctant.keys())
    pins = {
        name: preferred[name]
        for name in names
        if preferred.get(name) in {*willing.get(name, ()), *reluctant.get(name, ())}
    }
    weights = {offer.engine: offer.weight for offer in offers}
    chosen = pins | _chosen({n: willing[n] for n in names if n in willing and n not in pins}, pins, weights)
    found: dict[str, Ranking] = {}
    for name in names:
        rest = [*_drawn(name, willing.get(name, ())), *_drawn(name, reluctant.get(name, ()))]
        first = chosen.get(name)
        found[name] = tuple(([first] if first else []) + [engine for engine in rest if engine != first])
    return found


def score(name: str, engine: EngineId) -> int:
    """How much a singleton is drawn to an engine; the same on every machine and in every version."""
    return int.from_bytes(hashlib.blake2b(f"{name}@{engine}".encode(), digest_size=8).digest(), "big")


def _chosen(
    willing: Mapping[str, Collection[EngineId]],
    pins: Mapping[str, EngineId],
    weights: Mapping[EngineId, int],
) -> dict[str, EngineId]:
    """One engine each, the strongest attractions first, nobody above its quota while others have room."""
    engines = {engine for offering in willing.values() for engine in offering}
    if not engines:
        return {}
    room, extra = _quotas(engines, willing, pins, weights)
    pairs = sorted(((score(n, e), n, e) for n, offering in willing.items() for e in offering), reverse=True)
    chosen: dict[str, EngineId] = {}
    for _, name, engine in pairs:
        if name in chosen or room[engine] < 0 or (room[engine] == 0 and not extra):
            continue
        extra -= room[engine] == 0
        room[engine] -= 1
        chosen[name] = engine
    for name in sorted(willing.keys() - chosen.keys()):  # offered by none that has room left
        chosen[name] = min(willing[name], key=lambda engine: (-room[engine], -score(name, engine)))
        room[chosen[name]] -= 1
    return chosen


def _quotas(
    engines: Collection[EngineId],
    willing: Mapping[str, Collection[EngineId]],
    pins: Mapping[str, EngineId],
    weights: Mapping[EngineId, int],
) -> tuple[dict[EngineId, int], int]:
    """What each may still lead at least, and how many of them may lead one more."""
    total = len(willing) + sum(engine in engines for engine in pins.values())
    whole = sum(weights[engine] for engine in engines)
    room = {engine: total * weights[engine] // whole for engine in engines}
    extra = total - sum(room.values())
    for engine in pins.values():
        if engine in room:
            room[engine] -= 1
    return room, extra


def _by_name(pairs: Iterable[tuple[EngineId, frozenset[str]]]) -> dict[str, set[EngineId]]:
    found: dict[str, set[EngineId]] = {}
    for engine, names in pairs:
        for name in names:
            found.setdefault(name, set()).add(engine)
    return found


def _drawn(name: str, engines: Collection[EngineId]) -> list[EngineId]:
    return sorted(engines, key=lambda engine: score(name, engine), reverse=True)
