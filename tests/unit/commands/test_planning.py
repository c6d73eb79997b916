"""The table that every resume goes by: each row is an interruption, and what follows from it."""

from __future__ import annotations

import dataclasses
import itertools
from datetime import UTC, datetime

import pytest

from engine.commands import planning
from engine.commands.planning import Declared, plan
from engine.commands.records import CommandRecord, CommandState, Goal, History, StepRecord, StepState, Verdict
from engine.plugin import ChildOutcome, ShardId

NOW = datetime(2026, 1, 2, tzinfo=UTC)
COMMAND = CommandRecord(
    id="c",
    type="script",
    arguments={},
    entity_kind="vm",
    entity_id="v",
    state=CommandState.RUNNING,
    shard=ShardId(0),
    epoch=1,
    engine="a",
    root_id="c",
    parent_id=None,
    parent_operation=None,
    locks={"exclusive": ["vm:v"], "shared": []},
    lock_token=7,
    lock_wait_until=None,
    user="",
    goal=None,
    undo_from=None,
    cancel_requested=False,
    quarantine_until=None,
    percent=0,
    message="",
    error="",
    created_at=NOW,
    started_at=NOW,
    ended_at=None,
)
SAFE = Declared("one", idempotent=True)
PROBED = Declared("one", probes=True)
BLIND = Declared("one")
TWO = Declared("two", idempotent=True)


def step(name: str, state: StepState, number: int = 1, **changes: object) -> StepRecord:
    record = StepRecord(
        operation_id=f"op-{number}",
        command_id="c",
        number=number,
        name=name,
        attempt=1,
        state=state,
        result={},
        intended_at=NOW,
    )
    return dataclasses.replace(record, **changes)  # type: ignore[arg-type]


def history(*steps: StepRecord, **changes: object) -> History:
    return History(dataclasses.replace(COMMAND, **changes), steps)  # type: ignore[arg-type]


OPEN = step("one", StepState.INTENDED)
DONE = step("one", StepState.DONE)


def test_the_first_step_is_intended_first() -> None:
    assert plan(history(), (BLIND, TWO)) == planning.Intend("one", attempt=1, number=1)


def test_a_step_with_a_result_is_never_run_again() -> None:
    assert plan(history(DONE), (BLIND, TWO)) == planning.Intend("two", attempt=1, number=2)
    done = history(DONE, step("two", StepState.DONE, 2))
    assert plan(done, (BLIND, TWO)) == planning.End(CommandState.SUCCEEDED)


@pytest.mark.parametrize("declared", [SAFE, PROBED, BLIND])
def test_what_was_intended_here_and_not_sent_is_sent(declared: Declared) -> None:
    assert plan(history(OPEN), (declared,), unsent="op-1") == planning.Act(OPEN)


def test_after_a_crash_an_idempotent_step_is_sent_again() -> None:
    assert plan(history(OPEN), (SAFE,)) == planning.Act(OPEN)


def test_after_a_crash_what_can_be_found_out_is_found_out() -> None:
    assert plan(history(OPEN), (PROBED,)) == planning.Probe(OPEN)


def test_after_a_crash_what_cannot_be_found_out_is_never_sent_again() -> None:
    assert isinstance(plan(history(OPEN), (BLIND,)), planning.AskOperator)
    assert isinstance(plan(history(OPEN), (BLIND,), unsent="op-of-another-time"), planning.AskOperator)


def test_an_operator_decides_what_became_of_it() -> None:
    happened = step("one", StepState.INTENDED, verdict=Verdict.HAPPENED)
    assert plan(history(happened), (BLIND,)) == planning.Record(happened)
    not_so = step("one", StepState.INTENDED, verdict=Verdict.NOT_HAPPENED)
    assert plan(history(not_so), (BLIND,)) == planning.Resend(not_so)
    assert plan(history(not_so), (BLIND,), unsent="op-1") == planning.Resend(not_so)
    cancelled = plan(history(not_so, cancel_requested=True), (BLIND,))
    assert cancelled == planning.BeginUndoing(Goal.CANCELLED, "it was cancelled")


def test_children_are_waited_for_and_then_their_parent_acts() -> None:
    parent = step("one", StepState.INTENDED, children=2)
    ended = ChildOutcome("k", "script", {}, "succeeded")
    assert plan(history(parent), (SAFE,)) == planning.AwaitChildren(parent)
    assert plan(History(COMMAND, (parent,), (ended,)), (SAFE,)) == planning.AwaitChildren(parent)
    assert plan(History(COMMAND, (parent,), (ended, ended)), (SAFE,)) == planning.Act(parent)


def test_a_cancelled_parent_has_its_children_cancelled_first() -> None:
    parent = step("one", StepState.INTENDED, children=1)
    cancelled = history(parent, cancel_requested=True)
    assert plan(cancelled, (SAFE,)) == planning.AwaitChildren(parent, cancel=True)


def test_a_cancellation_is_heeded_between_steps() -> None:
    move = plan(history(DONE, cancel_requested=True), (BLIND, TWO))
    assert move == planning.BeginUndoing(Goal.CANCELLED, "it was cancelled")


def test_a_cancellation_does_not_forget_a_step_that_may_have_happened() -> None:
    assert plan(history(OPEN, cancel_requested=True), (PROBED,)) == planning.Probe(OPEN)
    move = plan(history(OPEN, cancel_requested=True), (PROBED,), unsent="op-1")
    assert isinstance(move, planning.BeginUndoing)


def test_undoing_goes_backwards_and_leaves_out_effects_that_never_were() -> None:
    failed = step("two", StepState.FAILED, 2, error="no")
    undoing = {"state": CommandState.COMPENSATING, "goal": Goal.FAILED}
    assert plan(history(DONE, failed, **undoing), (BLIND, TWO)) == planning.Undo(failed, effect=False)
    undone = dataclasses.replace(failed, state=StepState.UNDONE)
    assert plan(history(DONE, undone, **undoing), (BLIND, TWO)) == planning.Undo(DONE, effect=True)
    all_undone = history(dataclasses.replace(DONE, state=StepState.UNDONE), undone, **undoing)
    assert plan(all_undone, (BLIND, TWO)) == planning.End(CommandState.COMPENSATED)


def test_what_an_operator_has_undone_by_hand_is_undone_in_the_rows_alone() -> None:
    by_hand = step("one", StepState.DONE, verdict=Verdict.UNDONE)
    failed = history(by_hand, state=CommandState.COMPENSATING, goal=Goal.FAILED)
    assert plan(failed, (BLIND,)) == planning.Undo(by_hand, effect=False)


def test_where_nothing_was_done_nothing_was_compensated() -> None:
    undone = step("one", StepState.UNDONE, error="no")
    failed = history(undone, state=CommandState.COMPENSATING, goal=Goal.FAILED)
    assert plan(failed, (BLIND,)) == planning.End(CommandState.FAILED)


def test_what_may_have_happened_is_undone_like_what_did() -> None:
    given_up = step("one", StepState.FAILED, verdict=Verdict.UNKNOWN, error="no answer")
    failed = history(given_up, state=CommandState.COMPENSATING, goal=Goal.FAILED)
    assert plan(failed, (SAFE,)) == planning.Undo(given_up, effect=True)


def test_going_back_undoes_no_further_than_it_has_to() -> None:
    two = step("two", StepState.FAILED, 2, error="not so")
    back = {"state": CommandState.COMPENSATING, "goal": Goal.AGAIN, "undo_from": "two"}
    assert plan(history(DONE, two, **back), (BLIND, TWO)) == planning.Undo(two, effect=False)
    undone = dataclasses.replace(two, state=StepState.UNDONE)
    assert plan(history(DONE, undone, **back), (BLIND, TWO)) == planning.GoOn()
    assert plan(history(DONE, undone), (BLIND, TWO)) == planning.Intend("two", attempt=2, number=3)


def test_without_its_locks_a_command_does_not_begin_and_does_not_go_on() -> None:
    assert plan(history(lock_token=None), (SAFE,)) == planning.End(CommandState.FAILED)
    assert isinstance(plan(history(OPEN, lock_token=None), (SAFE,)), planning.AskOperator)


def test_a_command_that_waits_for_its_locks_takes_them_first() -> None:
    waiting = {"state": CommandState.WAITING_LOCK, "lock_token": None}
    assert plan(history(**waiting), (SAFE,)) == planning.TakeLocks()
    cancelled = history(**waiting, cancel_requested=True)
    assert plan(cancelled, (SAFE,)) == planning.End(CommandState.CANCELLED)


def test_a_step_that_another_version_has_written_is_not_guessed_at() -> None:
    assert isinstance(plan(history(step("older", StepState.DONE)), (SAFE,)), planning.AskOperator)


@pytest.mark.parametrize("state", list(CommandState)[5:])
def test_what_is_over_is_left_alone(state: CommandState) -> None:
    assert plan(history(OPEN, state=state), (SAFE,)) == planning.Nothing()


@pytest.mark.parametrize(
    ("declared", "state", "cancelled", "goal"),
    list(itertools.product((SAFE, PROBED, BLIND), StepState, (False, True), (None, *Goal))),
)
def test_in_no_state_is_a_doubtful_step_sent_or_a_command_ended_over_it(
    declared: Declared, state: StepState, cancelled: bool, goal: Goal | None
) -> None:
    move = plan(history(step("one", state), cancel_requested=cancelled, goal=goal), (declared, TWO))
    if state is StepState.INTENDED:
        assert not isinstance(move, planning.End | planning.Undo | planning.GoOn | planning.Intend)
        assert not isinstance(move, planning.Act) or declared.idempotent
    else:
        assert not isinstance(move, planning.Act | planning.Probe)
