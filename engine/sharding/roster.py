"""Which members count when shards are planned: who left, at once; who came, after a short wait.

Several engines that start together should cause one move of shards, not one each. Pure: time is an
argument. Called by `ownership.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from engine.plugin import EngineId

_PATIENCE = 3
"""Newcomers wait for further ones, but no longer than so many times the debounce."""


class Roster:
    """Members by name and session: a restarted engine is a newcomer."""

    def __init__(self, debounce_seconds: Callable[[], float]) -> None:
        self._debounce_seconds = debounce_seconds
        self._admitted: dict[EngineId, int] = {}
        self._waiting: dict[EngineId, tuple[int, float]] = {}
        self.due: float | None = None
        """When `admit` should be asked again though nobody came or left."""

    def admit(self, present: Mapping[EngineId, int], now: float) -> frozenset[EngineId]:
        """The engines to plan with, of those `present` (engine to session)."""
        self._admitted = {e: s for e, s in self._admitted.items() if present.get(e) == s}
        self._waiting = {e: w for e, w in self._waiting.items() if present.get(e) == w[0]}
        for engine, session in present.items():
            if engine not in self._admitted and engine not in self._waiting:
                self._waiting[engine] = (session, now)
        self.due = None
        if self._waiting:
            since = [came for _, came in self._waiting.values()]
            debounce = self._debounce_seconds()
            self.due = min(max(since) + debounce, min(since) + _PATIENCE * debounce)
            if now >= self.due:
                self._admitted |= {engine: session for engine, (session, _) in self._waiting.items()}
                self._waiting.clear()
                self.due = None
        return frozenset(self._admitted)
