"""A command and its steps as they stand in the database, and the states they pass through."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from engine.plugin import ChildOutcome, HostId, Json, ShardId


class CommandState(enum.StrEnum):
    """Where a command is. Those of `ENDED` are final."""

    QUEUED = "queued"
    WAITING_LOCK = "waiting_lock"
    RUNNING = "running"
    WAITING = "waiting"
    COMPENSATING = "compensating"
    NEEDS_OPERATOR = "needs_operator"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    COMPENSATED = "compensated"
    CANCELLED = "cancelled"


ENDED = frozenset(
    {CommandState.SUCCEEDED, CommandState.FAILED, CommandState.COMPENSATED, CommandState.CANCELLED}
)


class StepState(enum.StrEnum):
    """`INTENDED` may be under way; `FAILED` did not happen; `UNDONE` counts no more."""

    INTENDED = "intended"
    DONE = "done"
    FAILED = "failed"
    UNDONE = "undone"


class Goal(enum.StrEnum):
    """What the undoing of steps is to end in: another round of them, or the end of the command."""

    AGAIN = "again"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Verdict(enum.StrEnum):
    """What an operator says of a step whose outcome the engine cannot tell (UNDONE: of one that it cannot
    undo). NOT_HAPPENED is also the word of an engine that hands over before it has sent anything, UNKNOWN
    of one that has given an idempotent step up, FENCED says that the step's host was off since."""

    HAPPENED = "happened"
    NOT_HAPPENED = "not_happened"
    UNKNOWN = "unknown"
    FENCED = "fenced"
    UNDONE = "undone"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One row of `step`: one intention of one step."""

    operation_id: str
    command_id: str
    number: int
    name: str
    attempt: int
    state: StepState
    verdict: Verdict | None = None
    host_id: HostId | None = None
    children: int = 0
    result: Json
    error: str = ""
    intended_at: datetime
    ended_at: datetime | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> StepRecord:
        verdict = row["verdict"]
        return cls(
            **{
                **row,
                "state": StepState(row["state"]),
                "verdict": Verdict(verdict) if verdict else None,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRecord:
    """One row of `command`. `epoch` is that of its last claim; None while nobody has claimed it, or
    whoever had has handed it over; `engine.db.fenced.TAKEN_AWAY` where that was not asked."""

    id: str
    type: str
    arguments: Json
    entity_kind: str
    entity_id: str
    state: CommandState
    shard: ShardId
    epoch: int | None
    engine: str | None
    root_id: str
    parent_id: str | None
    parent_operation: str | None
    locks: Mapping[str, list[str]]
    lock_token: int | None
    lock_wait_until: datetime | None
    user: str
    goal: Goal | None
    undo_from: str | None
    cancel_requested: bool
    quarantine_until: datetime | None
    percent: int
    message: str
    error: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> CommandRecord:
        goal = row["goal"]
        return cls(**{**row, "state": CommandState(row["state"]), "goal": Goal(goal) if goal else None})

    @property
    def has_locks(self) -> bool:
        """Whether it holds locks of its own (a child may act under its root's alone)."""
        return bool(self.locks.get("exclusive") or self.locks.get("shared"))

    @property
    def ended(self) -> bool:
        return self.state in ENDED


@dataclass(frozen=True)  # without slots: what follows from the rows is asked for again and again
class History:
    """A command with all its steps in order, and the children of its open one."""

    command: CommandRecord
    steps: tuple[StepRecord, ...] = ()
    children: tuple[ChildOutcome, ...] = ()
    """Those of the open step that have ended."""

    @cached_property
    def open_step(self) -> StepRecord | None:
        """The step that was intended last and has no result, if there is one."""
        return next((step for step in reversed(self.steps) if step.state is StepState.INTENDED), None)

    @cached_property
    def live(self) -> dict[str, StepRecord]:
        """The steps that count, by name, in the order in which they were intended."""
        return {step.name: step for step in self.steps if step.state is not StepState.UNDONE}

    @cached_property
    def data(self) -> dict[str, Json]:
        return {name: step.result for name, step in self.live.items() if step.state is StepState.DONE}

    @property
    def waits_for_children(self) -> bool:
        """Whether its step is open only because children of it have not ended."""
        step = self.open_step
        return step is not None and len(self.children) < step.children

    def attempts(self, name: str) -> int:
        return sum(step.name == name for step in self.steps)
