"""Where a duty stands on one engine, and how all engines and the API come to know it.

Each engine keeps one small ephemeral node, `/duties/<engine>`: what it is ready to lead, what it runs,
what failed there and why. Its size is bounded: a traceback that is long loses its beginning.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import orjson

from engine.coordination.operations import MalformedNode, Node
from engine.election.spread import Offer
from engine.plugin import EngineId, Scope

FAULT_CHARACTERS = 500
DETAILS_CHARACTERS = 4000
MAX_BYTES = 128 * 1024
"""Of the node; where there is more, tracebacks are left out."""


class DutyState(enum.Enum):
    """Where a duty stands on this engine."""

    STARTING = "starting"
    WAITING = "waiting"
    """A candidate, or on its way to be one; another engine leads or nobody can."""
    PAUSED = "paused"
    """An operator has paused it."""
    RUNNING = "running"
    RESTING = "resting"
    """It failed here and stands back for a while; not a candidate."""
    STUCK = "stuck"
    """It was abandoned and has not ended yet; not a candidate."""
    STOPPED = "stopped"
    REFUSED = "refused"
    """It was not loaded; `fault` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DutyStatus:
    """A snapshot for display. `failures` counts those in a row, `fault` is the last one's first line.

    `yielding`: it failed here so often that other engines are to lead it for a while. `tasks_left`
    counts tasks that its runs have left behind. `shards`: on how many it runs, in the scope SHARD.
    """

    name: str
    source: str
    scope: Scope | None
    state: DutyState
    since: datetime
    token: int | None = None
    failures: int = 0
    failed_at: datetime | None = None
    fault: str = ""
    details: str = ""
    yielding: bool = False
    tasks_left: int = 0
    shards: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "scope": self.scope.value if self.scope else None,
            "state": self.state.value,
            "fault": self.fault[:FAULT_CHARACTERS],
            "details": self.details[-DETAILS_CHARACTERS:],
        }

    @classmethod
    def from_dict(cls, said: dict[str, Any]) -> DutyStatus:
        """Raises `ValueError`, `KeyError`, `TypeError`."""
        known = {name: said[name] for name in cls.__dataclass_fields__ if name in said}
        failed_at = said.get("failed_at")
        return cls(
            **known
            | {
                "scope": Scope(said["scope"]) if said["scope"] else None,
                "state": DutyState(said["state"]),
                "since": datetime.fromisoformat(said["since"]),
                "failed_at": datetime.fromisoformat(failed_at) if failed_at else None,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDuties:
    """What one engine says of its duties. One that is `draining` offers to lead nothing."""

    engine: EngineId
    duties: tuple[DutyStatus, ...] = ()
    draining: bool = False

    @classmethod
    def from_node(cls, engine: str, node: Node) -> EngineDuties:
        """Raises `MalformedNode`."""
        said = node.json()
        try:
            duties = tuple(DutyStatus.from_dict(duty) for duty in said["duties"])
            return cls(engine=EngineId(engine), duties=duties, draining=bool(said["draining"]))
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedNode(f"the duties of {engine}: {error!r}") from error

    def to_json(self) -> bytes:
        data = self._to_json(self.duties)
        if len(data) > MAX_BYTES:
            data = self._to_json(replace(duty, details="") for duty in self.duties)
        return data

    def _to_json(self, duties: Iterable[DutyStatus]) -> bytes:
        return orjson.dumps({"draining": self.draining, "duties": [duty.to_dict() for duty in duties]})

    def offer(self) -> Offer:
        """What it is ready to lead."""
        offered = [
            duty
            for duty in self.duties
            if duty.scope is Scope.CLUSTER and duty.state is not DutyState.REFUSED and not self.draining
        ]
        return Offer(
            engine=self.engine,
            names=frozenset(duty.name for duty in offered),
            reluctant=frozenset(duty.name for duty in offered if duty.yielding),
        )
