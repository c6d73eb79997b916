"""One command in this engine's hands: planned from its rows, moved on, until it ends or leaves.

What is committed is in `Committed`, what is done outside the database in `Effects`; a `Run` makes the
moves that `planning.plan` names. What a run knows and no row says (the plan's `unsent`, a result that is
not written yet) dies with it: the heir probes.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from datetime import timedelta

from engine.commands import planning
from engine.commands.committed import Committed, Left, Moves
from engine.commands.context import Context
from engine.commands.effects import (
    REFUSALS,
    Back,
    Done,
    Effects,
    NotSent,
    NotThere,
    Outcome,
    Refused,
    Unknown,
)
from engine.commands.patience import Patience
from engine.commands.planning import Declared
from engine.commands.records import CommandState, Goal, History, StepRecord, Verdict
from engine.commands.services import Services, ShardClaim
from engine.commands.transactions import Transaction
from engine.errors import AuthorityLost, Conflict, EngineError, Fenced, InvalidInput, Unavailable
from engine.plugin import Command, GoBack, Json, Step

LOG = logging.getLogger(__name__)


class Run:
    """`go` returns when there is nothing more to do here. Raises `AuthorityLost`, `Fenced`."""

    def __init__(self, services: Services, claim: ShardClaim, history: History, *, taken_over: bool) -> None:
        until = services.now() + timedelta(seconds=services.settings.quarantine_seconds)
        self.progress: tuple[int, str] | None = None
        """Said by the step, not written yet."""
        self._services = services
        self._patience = Patience(
            retry_seconds=services.settings.retry_seconds,
            late_until=until if taken_over else history.command.quarantine_until,
        )
        self._row = Committed(services, claim, history, patience=self._patience, context=self._context)
        self._effects = Effects(self._row, self._context)
        self._unsent: str | None = None
        self._result: tuple[str, Json] | None = None
        self._operations: dict[tuple[str, int], str] = {}
        self._command: Command
        self._steps: dict[str, Step] = {}
        self._declared: tuple[Declared, ...] = ()
        self._ambiguous = taken_over

    @property
    def id(self) -> str:
        return self._row.id

    @property
    def claim(self) -> ShardClaim:
        return self._row.claim

    @property
    def history(self) -> History:
        """As it was last committed."""
        return self._row.history

    def halt(self) -> None:
        """Hand the command back before its next step."""
        self._patience.halt()

    def cancel_requested(self) -> None:
        """Somebody wants it cancelled: heed it as soon as possible."""
        self._row.cancel_requested()

    def told_progress(self, percent: int, message: str) -> None:
        """It was written down."""
        self._row.told_progress(percent, message)

    async def go(self) -> None:
        try:
            await self._prepare()
            while True:
                if (known := self._known_result()) is not None:
                    await self._record(*known)
                    continue
                if self._patience.halted:
                    await self._hand_back()
                move = planning.plan(self.history, self._declared, unsent=self._unsent)
                await self._make(move)
        except Left:
            return
        except (AuthorityLost, Fenced):
            raise
        except Exception as error:  # a defect, of the plugin or of ours: it must not look as if it went on
            LOG.exception("command=%s: its run failed", self.id)
            with contextlib.suppress(Left):
                await self._give_up(f"the engine failed on it: {error!r}")

    # --- beginning --------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        record = self.history.command
        try:
            self._command = self._services.catalogue.build(record.type, record.arguments)
            steps = self._command.steps()
        except InvalidInput as error:
            await self._give_up(f"this engine cannot read it: {error}")
            raise Left from error
        self._steps = {step.name: step for step in steps}
        self._declared = tuple(Declared(s.name, s.idempotent, s.probes()) for s in steps)
        if self._ambiguous and self._may_be_on_its_way():
            await self._note_quarantine()
        else:
            self._ambiguous = record.quarantine_until is not None  # as an engine before this one has noted
        if record.state in (CommandState.QUEUED, CommandState.RUNNING) and record.has_locks:
            await self._prove_lock()

    def _may_be_on_its_way(self) -> bool:
        """Whether the engine before this one may have sent something that arrives only now."""
        if (open_step := self.history.open_step) is not None:
            known = self._steps.get(open_step.name)
            settled = open_step.verdict is Verdict.FENCED or self.history.waits_for_children
            return known is not None and known.sends() and not settled
        there = [r.name for r in self.history.live.values() if r.verdict is not Verdict.FENCED]
        live = [self._steps.get(name) for name in there]
        return self.history.command.goal is not None and any(s is not None and s.undoes() for s in live)

    async def _prove_lock(self) -> None:
        """A command whose row came after its locks were swept must not run."""
        token = await self._row.answered(lambda: self._services.locks.command_token(self.id))
        if token == self.history.command.lock_token:
            return
        if self.history.steps:
            await self._row.write(lambda tx: tx.ask_operator("its locks are gone"))
        else:
            await self._end(CommandState.FAILED, "its locks were gone before it began")
        raise Left

    async def _give_up(self, why: str) -> None:
        LOG.error("command=%s: %s", self.id, why)
        await self._row.write(lambda tx: tx.ask_operator(why))

    # --- moves ------------------------------------------------------------------------------------

    async def _make(self, move: planning.Move) -> None:
        match move:
            case planning.Nothing():
                raise Left
            case planning.TakeLocks():
                await self._take_locks()
            case planning.Intend():
                await self._try_to_write(lambda tx: self._intend_next(tx, move))
            case planning.AwaitChildren():
                await self._await_children(move)
            case planning.Act(step):
                await self._act(step)
            case planning.Resend(step):
                await self._resend(step)
            case planning.Probe(step):
                await self._probe(step)
            case planning.SettleFenced(step):
                self._unsent = None
                await self._follow(step, await self._effects.fenced(self._steps[step.name], step))
            case planning.Record(step):
                await self._record(step, {})
            case planning.BeginUndoing(goal, error):
                await self._row.write(lambda tx: tx.begin_undoing(goal, error))
            case planning.Undo(step, effect):
                await self._undo(step, effect)
            case planning.GoOn():
                await self._row.write(lambda tx: tx.go_on())
            case planning.AskOperator(why):
                LOG.warning("command=%s: needs an operator: %s", self.id, why)
                await self._row.write(lambda tx: tx.ask_operator(why))
            case planning.End(state):
                await self._end(state)

    async def _intend_next(self, tx: Transaction, move: planning.Intend) -> None:
        """Intend; where this is the command's first move, start it in the same transaction."""
        if tx.history.command.started_at is None:
            await tx.start(self._command)
        key = (move.name, move.attempt)
        operation = self._operations.setdefault(key, str(uuid.uuid4()))
        self._unsent = operation  # before the commit: its answer may be lost, the row not
        if not await tx.intend(self._steps[move.name], move, operation):
            self._unsent = None

    def _known_result(self) -> tuple[StepRecord, Json] | None:
        """A result that could not be written yet."""
        open_step = self.history.open_step
        if self._result is None or open_step is None or open_step.operation_id != self._result[0]:
            self._result = None
            return None
        return open_step, self._result[1]

    async def _record(self, record: StepRecord, result: Json) -> None:
        """Write the result and, in the same transaction, whatever can follow at once."""
        self._result = (record.operation_id, result)
        self.progress = None  # the step's end says more
        step = self._steps[record.name]

        async def record_alone(tx: Transaction) -> None:
            await tx.record(step, record, result, of=len(self._steps))

        async def record_and_move_on(tx: Transaction) -> None:
            await record_alone(tx)
            following = planning.plan(tx.history, self._declared)
            if isinstance(following, planning.Intend) and not self._patience.halted:
                await self._intend_next(tx, following)
            elif following == planning.End(CommandState.SUCCEEDED) and not self._quarantined():
                await tx.end(CommandState.SUCCEEDED)

        try:
            await self._row.write(record_and_move_on)
        except (AuthorityLost, Fenced, Unavailable, Left):
            raise
        except GoBack as back:
            await self._go_back(record, back)
        except Exception:  # whose fault it is shows when the two are written apart
            self._unsent = None
            await self._try_to_write(record_alone, recording=record)
        if self.history.command.ended:
            await self._release_locks()

    async def _act(self, record: StepRecord) -> None:
        step = self._steps[record.name]
        if step.after_quarantine and await self._sit_out_quarantine():
            return
        known_unsent, self._unsent = self._unsent == record.operation_id, None
        outcome = await self._effects.act(step, record)
        if known_unsent and isinstance(outcome, NotSent):
            self._unsent = record.operation_id  # else a try before this one may have been
        await self._follow(record, outcome)

    async def _resend(self, record: StepRecord) -> None:
        if await self._sit_out_quarantine():
            return
        self._unsent = record.operation_id
        await self._row.write(lambda tx: tx.change_step(record, verdict=None))

    async def _probe(self, record: StepRecord) -> None:
        step = self._steps[record.name]
        waited = self._patience.start_waiting(_after(record))
        found = await self._effects.probe(step, record)
        if isinstance(found, NotThere):
            # Within the quarantine a dead engine's verb may still arrive: ask again after it.
            if not await self._sit_out_quarantine():
                self._unsent = record.operation_id
        elif not isinstance(found, Unknown):
            await self._follow(record, found)
        elif waited >= step.probe_seconds:
            why = f"step {record.name}: it could not be found out within {waited:.0f} s what became of it"
            await self._row.write(lambda tx: tx.ask_operator(why))
        else:
            await self._patience.pause_once_more(max(0.05, step.probe_seconds - waited))

    async def _follow(self, record: StepRecord, outcome: Outcome) -> None:
        """Write what follows from what came of a step."""
        match outcome:
            case Done(result):
                await self._record(record, result)
            case Refused(why):
                await self._fail(why)
            case Back(back):
                await self._go_back(record, back)
            case NotSent(why):
                await self._wait_for_host(record, why)
            case Unknown(why):
                await self._outcome_unknown(record, why)

    async def _outcome_unknown(self, record: StepRecord, why: str) -> None:
        """An idempotent step is tried again, some times; any other one is up to the plan."""
        LOG.warning("command=%s step=%s: outcome unknown: %s", self.id, record.name, why)
        if not self._steps[record.name].idempotent:
            self._patience.start_waiting(_after(record))
            self._patience.late(self._services.now(), self._services.settings.quarantine_seconds)
        elif self._patience.tries + 1 >= self._services.settings.tries:
            self._patience.tries = 0
            await self._fail(why, ambiguous=True)
        else:
            await self._patience.pause_once_more()

    async def _wait_for_host(self, record: StepRecord, why: str) -> None:
        most = self._steps[record.name].timeout_seconds
        waited = self._patience.start_waiting(record.operation_id)
        if waited >= most:
            await self._fail(f"{why} (waited {waited:.0f} s)", ambiguous=self._unsent != record.operation_id)
            return
        if self.history.command.state is not CommandState.WAITING:
            await self._row.write(lambda tx: tx.change(state=CommandState.WAITING, message=why))
        await self._patience.pause_once_more(most - waited)

    async def _await_children(self, move: planning.AwaitChildren) -> None:
        async def park(tx: Transaction) -> None:
            tx.change(state=CommandState.WAITING)
            if move.cancel:
                await tx.cancel_children(move.step)

        await self._row.write(park)
        # Between our last read and this commit the last child may have ended and found nobody waiting.
        fresh = await self._row.read()
        if len(fresh.children) < move.step.children:
            raise Left
        self._row.history = fresh
        if fresh.command.epoch != self.claim.epoch:
            raise Left

    async def _undo(self, record: StepRecord, effect: bool) -> None:
        step = self._steps[record.name]
        if effect:
            if step.undoes() and record.host_id is not None:
                there = self._services.shard_of(record.host_id)
                if there != self.history.command.shard:  # only the owner of its host can undo it
                    await self._row.write(lambda tx: tx.travel(there))
                    return
            if self._ambiguous and await self._sit_out_quarantine():
                return
            if (error := await self._effects.compensate(step, record)) is not None:
                await self._cannot_undo(record, error)
                return
        self._patience.tries = 0
        await self._row.write(lambda tx: tx.undo(step, record))

    async def _cannot_undo(self, record: StepRecord, error: Exception) -> None:
        LOG.warning("command=%s step=%s: cannot be undone: %s", self.id, record.name, error)
        if self._patience.tries + 1 < self._services.settings.tries:
            await self._patience.pause_once_more()
            return
        self._patience.tries += 1
        why = f"step {record.name} cannot be undone: {error or type(error).__name__}"
        await self._row.write(lambda tx: tx.ask_operator(why))

    async def _take_locks(self) -> None:
        command = self.history.command
        locks, until = command.locks, command.lock_wait_until
        left = (until - self._services.now()).total_seconds() if until is not None else 0.0
        try:
            token = await self._services.locks.take_for_command(
                self.id,
                exclusive=frozenset(locks["exclusive"]),
                shared=frozenset(locks["shared"]),
                user=command.user,
                reason=command.type,
                wait=timedelta(seconds=min(left, 2.0)) if left > 0 else None,
            )
        except Conflict as refused:
            held = await self._row.answered(lambda: self._services.locks.command_token(self.id))
            if held is not None:  # by an owner before us, who did not get to writing it down
                await self._row.write(lambda tx: tx.change(lock_token=held, state=CommandState.QUEUED))
            elif left <= 0:
                await self._end(CommandState.FAILED, str(refused))
            return
        except Unavailable:
            await self._patience.pause(self._patience.retry_seconds(1))
            return
        await self._row.write(lambda tx: tx.change(lock_token=token, state=CommandState.QUEUED))

    # --- ends -------------------------------------------------------------------------------------

    async def _end(self, state: CommandState, error: str | None = None) -> None:
        if self._quarantined() and await self._sit_out_quarantine():
            return
        if error is None and state is CommandState.FAILED and not self.history.command.error:
            error = "its locks were released by force"

        async def end(tx: Transaction) -> None:
            if state is CommandState.SUCCEEDED and tx.history.command.started_at is None:
                await tx.start(self._command)
            await tx.end(state, error)

        await self._try_to_write(end)
        if self.history.command.ended:
            await self._release_locks()

    async def _release_locks(self) -> None:
        """Where ZooKeeper does not answer the sweeper does it."""
        if self.history.command.has_locks:
            with contextlib.suppress(EngineError):
                await self._services.locks.release_command(self.id)

    async def _fail(self, error: str, *, ambiguous: bool = False) -> None:
        LOG.info("command=%s: fails: %s", self.id, error)
        await self._row.write(lambda tx: tx.begin_undoing(Goal.FAILED, error, ambiguous=ambiguous))

    async def _go_back(self, record: StepRecord, back: GoBack) -> None:
        why = str(back)
        if back.to not in self._steps or self.history.attempts(back.to) >= self._command.attempts:
            await self._fail(f"{why} (given up after {self.history.attempts(back.to)} attempts)")
            return
        LOG.info("command=%s step=%s: goes back to %s: %s", self.id, record.name, back.to, why)
        await self._row.write(lambda tx: tx.begin_undoing(Goal.AGAIN, why, undo_from=back.to))

    async def _hand_back(self) -> None:
        open_step = self.history.open_step
        unsent = open_step is not None and open_step.operation_id == self._unsent

        def hand_back(tx: Transaction) -> None:
            if open_step is not None and unsent:
                tx.change_step(open_step, verdict=Verdict.NOT_HAPPENED)
            tx.change(epoch=None)

        if open_step is None or unsent or self.history.waits_for_children:
            await self._row.write(hand_back)
        raise Left

    async def _try_to_write(self, moves: Moves, *, recording: StepRecord | None = None) -> None:
        """Write; what the plugin refuses makes the command fail."""
        try:
            await self._row.write(moves)
        except GoBack as back:
            if recording is None:
                raise
            await self._go_back(recording, back)
        except (AuthorityLost, Fenced, Unavailable, Left):
            raise
        except Exception as error:
            if not isinstance(error, REFUSALS):
                LOG.exception("command=%s: its plugin failed", self.id)
            self._unsent = None
            if self.history.command.started_at is None:
                why = str(error) or repr(error)
                await self._row.write(lambda tx: tx.end(CommandState.FAILED, why))
                await self._release_locks()
            else:
                self._result = None
                await self._fail(str(error) or repr(error), ambiguous=recording is not None)

    # --- the quarantine ---------------------------------------------------------------------------

    def _quarantined(self) -> bool:
        return self._ambiguous and self._patience.quarantine_left(self._services.now()) > 0

    async def _sit_out_quarantine(self) -> bool:
        """Wait for its end; whether there was anything to wait for (plan again then)."""
        if (left := self._patience.quarantine_left(self._services.now())) <= 0:
            return False
        if self.history.command.state is not CommandState.WAITING:
            await self._row.write(lambda tx: tx.change(state=CommandState.WAITING))
        await self._patience.pause(left)
        return True

    async def _note_quarantine(self) -> None:
        """In the row before anything else: the command may travel, or be handed over, before it is over."""
        until = self._patience.late_until
        await self._row.write(lambda tx: tx.change(quarantine_until=until))

    # --- what steps are given ---------------------------------------------------------------------

    def _context(self, history: History, record: StepRecord) -> Context:
        return Context(
            command_id=self.id,
            user=history.command.user,
            operation_id=record.operation_id,
            attempt=record.attempt,
            data=history.data,
            host_id=record.host_id,
            children=history.children,
            now=self._services.now(),
            connections=self._services.connections,
            report=self._report,
            secrets=self._services.secrets,
        )

    def _report(self, percent: int, message: str) -> None:
        """Of the whole command: each step is an equal part of it."""
        done = len(self.history.data)
        self.progress = ((100 * done + percent) // max(1, len(self._steps)), message)


def _after(record: StepRecord) -> str:
    """What is waited for once it may have been sent."""
    return record.operation_id + "?"
