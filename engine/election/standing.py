"""How an engine stands for one singleton: what the spread and the operator want of it.

Pure. `Campaign` asks before it queues up, while it waits and while it leads; who answers knows the
members and the operator's orders (`engine.singletons.board`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.coordination.lines import Contender
from engine.plugin import EngineId

RANK_SECONDS = 0.03
"""By how much each rank queues up later than the one before: longer than it takes to queue up."""

SETTLED_SECONDS = 5.0
"""How long somebody better has to be there before a leader gives way: an engine that comes and goes
moves nothing, and by then all engines see the same members."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """`order` is who should lead, the best first; `preferred` whom an operator has named; `down` why
    this engine is not to lead at all now, or empty; `runs` grows when somebody asks for a run at once."""

    order: tuple[EngineId, ...] = ()
    preferred: EngineId | None = None
    down: str = ""
    runs: int = 0

    def rank(self, engine: EngineId) -> int:
        return self.order.index(engine) if engine in self.order else len(self.order)

    def yields_in(self, me: EngineId, behind: Sequence[Contender]) -> tuple[float, EngineId | None]:
        """In how many seconds `me` is to give way, and to whom; inf and nobody: never.

        Whom an operator named does not wait; a contender that is no engine of ours outranks nobody.
        """
        seconds, heir = math.inf, None
        for contender in behind:
            engine = engine_of(contender.identifier)
            if engine is None or self.rank(engine) >= self.rank(me):
                continue
            asked = engine == self.preferred
            left = 0.0 if asked else max(0.0, SETTLED_SECONDS - contender.here_seconds)
            if left < seconds:
                seconds, heir = left, engine
        return seconds, heir


class Standings(Protocol):
    """The standings of one engine."""

    def of(self, name: str) -> Standing: ...

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` in the loop when any has changed; returns the unsubscribe."""


class Unranked:
    """Nobody wants anything: first come, first served."""

    def of(self, name: str) -> Standing:
        return Standing()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


def engine_of(identifier: str) -> EngineId | None:
    """Which engine a contender is; None where it is none of ours."""
    try:
        said = json.loads(identifier)
    except ValueError:
        return None
    engine = said.get("engine") if isinstance(said, dict) else None
    return EngineId(engine) if isinstance(engine, str) else None
