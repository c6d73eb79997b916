"""What to do next with a command, from its rows alone: the table that every resume goes by.

Pure. The one fact that no row holds is `unsent`: the operation of which it is known, here and now,
that its effect is not there, because this engine has just intended it or a probe has said so.
Invariants: a step with a result is never acted again; an open step that is not idempotent is acted
only while it is `unsent`; a command ends, or gives up its locks, only with no step open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.commands.records import CommandState, Goal, History, StepRecord, StepState, Verdict


@dataclass(frozen=True, slots=True)
class Declared:
    """A step as its command declares it."""

    name: str
    idempotent: bool = False
    probes: bool = False


@dataclass(frozen=True, slots=True)
class TakeLocks:
    """Take the command's locks first; it was submitted to wait for them."""


@dataclass(frozen=True, slots=True)
class Intend:
    """Write the intention of the step `name`."""

    name: str
    attempt: int
    number: int


@dataclass(frozen=True, slots=True)
class Act:
    """Do it."""

    step: StepRecord


@dataclass(frozen=True, slots=True)
class Resend:
    """It is known not to be there. First that is forgotten in the row: whoever comes after the next
    attempt knows nothing of the kind."""

    step: StepRecord


@dataclass(frozen=True, slots=True)
class Probe:
    """Find out whether it was done."""

    step: StepRecord


@dataclass(frozen=True, slots=True)
class Record:
    """It was done; write what follows."""

    step: StepRecord


@dataclass(frozen=True, slots=True)
class SettleFenced:
    """Its host was off since; nothing of it is left there."""

    step: StepRecord


@dataclass(frozen=True, slots=True)
class AwaitChildren:
    """Nothing to do until the children have ended."""

    step: StepRecord
    cancel: bool = False


@dataclass(frozen=True, slots=True)
class BeginUndoing:
    """Undo what was done, from the first step on, and end as `goal` says."""

    goal: Goal
    error: str


@dataclass(frozen=True, slots=True)
class Undo:
    """Undo this step; its effect, too, where it happened."""

    step: StepRecord
    effect: bool


@dataclass(frozen=True, slots=True)
class GoOn:
    """All is undone from the step on to which the command goes back."""


@dataclass(frozen=True, slots=True)
class AskOperator:
    """The engine cannot tell, and must not guess."""

    why: str


@dataclass(frozen=True, slots=True)
class End:
    """It is over. Locks are given up after this is written, and after the quarantine."""

    state: CommandState


@dataclass(frozen=True, slots=True)
class Nothing:
    """Not ours to go on with: it has ended, or an operator has to speak first."""


Move = (
    TakeLocks
    | Intend
    | Act
    | Resend
    | Probe
    | Record
    | SettleFenced
    | AwaitChildren
    | BeginUndoing
    | Undo
    | GoOn
    | AskOperator
    | End
    | Nothing
)


def plan(history: History, declared: Sequence[Declared], *, unsent: str | None = None) -> Move:
    """The next move."""
    command = history.command
    if command.ended or command.state is CommandState.NEEDS_OPERATOR:
        return Nothing()
    if command.state is CommandState.WAITING_LOCK:
        return End(CommandState.CANCELLED) if command.cancel_requested else TakeLocks()
    steps = {each.name: each for each in declared}
    if command.has_locks and command.lock_token is None:
        return _without_locks(history)
    if (unknown := next((n for n in history.live if n not in steps), None)) is not None:
        return AskOperator(f"this version of the command knows no step {unknown}")
    if (open_step := history.open_step) is not None:
        return _open_step(history, open_step, steps[open_step.name], unsent)
    if command.goal is not None:
        return _undoing(history, steps)
    if command.cancel_requested:
        return BeginUndoing(Goal.CANCELLED, "it was cancelled")
    for each in declared:
        if each.name not in history.live:
            return Intend(each.name, history.attempts(each.name) + 1, len(history.steps) + 1)
    return End(CommandState.SUCCEEDED)


def _without_locks(history: History) -> Move:
    """Its locks were released by force: it must not act any more, and cannot undo anything either."""
    if any(step.state in (StepState.INTENDED, StepState.DONE) for step in history.steps):
        return AskOperator("its locks were released by force after it had begun")
    return End(CommandState.FAILED)


def _open_step(history: History, step: StepRecord, declared: Declared, unsent: str | None) -> Move:
    if step.children and len(history.children) < step.children:
        return AwaitChildren(step, cancel=history.command.cancel_requested)
    if step.children and history.command.cancel_requested:
        return BeginUndoing(Goal.CANCELLED, "it was cancelled")
    if step.verdict is Verdict.HAPPENED:
        return Record(step)
    if step.verdict is Verdict.FENCED:
        return SettleFenced(step)
    if step.operation_id == unsent or step.verdict is Verdict.NOT_HAPPENED:
        # What is known to be undone need not be done for a command that is to be cancelled.
        if history.command.cancel_requested:
            return BeginUndoing(Goal.CANCELLED, "it was cancelled")
        return Act(step) if step.verdict is None else Resend(step)
    if declared.idempotent:
        return Act(step)
    if declared.probes:
        return Probe(step)
    return AskOperator(
        f"step {step.name} may or may not have been carried out, and there is no way to find out"
    )


def _undoing(history: History, steps: Mapping[str, Declared]) -> Move:
    """Undo the live steps in reverse, as far back as the goal says."""
    command = history.command
    names = list(steps)
    first = names.index(command.undo_from) if command.undo_from and command.undo_from in steps else 0
    for step in reversed(history.live.values()):
        if names.index(step.name) >= first:
            happened = step.state is StepState.DONE or step.verdict is Verdict.UNKNOWN
            return Undo(step, effect=happened and step.verdict not in (Verdict.FENCED, Verdict.UNDONE))
    if command.goal is Goal.AGAIN:
        return GoOn()
    if command.goal is Goal.CANCELLED:
        return End(CommandState.CANCELLED)
    done = any(step.state is StepState.UNDONE and step.error == "" for step in history.steps)
    return End(CommandState.COMPENSATED if done else CommandState.FAILED)
