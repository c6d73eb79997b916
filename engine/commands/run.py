"""One command in this engine's hands: planned from its rows, moved on, until it ends or leaves.

A `Run` keeps the last committed state of its command in memory and writes every move through the
group commit, under the shard's epoch. Where the database gives no answer the rows are read again
before anything else is done. What a run knows and no row says (`planning.plan`'s `unsent`, a result
that is not written yet) dies with it: the heir probes.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeVar

from engine.clock import boottime
from engine.commands import planning, store
from engine.commands.context import Context
from engine.commands.planning import Declared
from engine.commands.records import CommandState, Goal, History, StepRecord, StepState
from engine.commands.services import Services, ShardClaim
from engine.commands.transactions import Transaction, Written
from engine.errors import (
    AuthorityLost,
    Conflict,
    EngineError,
    Fenced,
    HostRefused,
    HostUnreachable,
    InvalidInput,
    NotFound,
    Unavailable,
)
from engine.plugin import NOT_HAPPENED, Command, GoBack, Happened, Json, Step

LOG = logging.getLogger(__name__)

REFUSALS = (Conflict, InvalidInput, NotFound, HostRefused)
"""What says for certain that nothing was done."""

Moves = Callable[[Transaction], Awaitable[None] | None]
T = TypeVar("T")


class _Left(Exception):
    """The command is no longer this run's: it has travelled, waits as a row, or is handed back."""


class Run:
    """`go` returns when there is nothing more to do here. Raises `AuthorityLost`, `Fenced`."""

    def __init__(self, services: Services, claim: ShardClaim, history: History, *, taken_over: bool) -> None:
        self.claim = claim
        self.history = history
        self.progress: tuple[int, str] | None = None
        """Said by the step, not written yet."""
        self._services = services
        self._halted = asyncio.Event()
        self._news = asyncio.Event()
        self._unsent: str | None = None
        self._result: tuple[str, Json] | None = None
        self._operations: dict[tuple[str, int], str] = {}
        self._tries = 0
        self._since: tuple[str, float] = ("", 0.0)
        self._command: Command
        self._steps: dict[str, Step] = {}
        self._declared: tuple[Declared, ...] = ()
        until = services.now() + timedelta(seconds=services.settings.quarantine_seconds)
        self._late_until: datetime | None = until if taken_over else history.command.quarantine_until
        self._ambiguous = taken_over
        self._orphaned = False

    @property
    def id(self) -> str:
        return self.history.command.id

    def halt(self) -> None:
        """Hand the command back before its next step."""
        self._halted.set()
        self._news.set()

    def cancel_requested(self) -> None:
        """Somebody wants it cancelled: heed it as soon as possible."""
        if not self.history.command.cancel_requested:
            command = dataclasses.replace(self.history.command, cancel_requested=True)
            self.history = dataclasses.replace(self.history, command=command)
            self._news.set()

    async def go(self) -> None:
        try:
            await self._prepare()
            while True:
                if (known := self._known_result()) is not None:
                    await self._record(*known)
                    continue
                if self._halted.is_set():
                    await self._hand_back()
                move = planning.plan(self.history, self._declared, unsent=self._unsent)
                await self._make(move)
        except _Left:
            return
        except (AuthorityLost, Fenced):
            raise
        except Exception as error:  # a defect, of the plugin or of ours: it must not look as if it went on
            LOG.exception("command=%s: its run failed", self.id)
            with contextlib.suppress(_Left):
                await self._give_up(f"the engine failed on it: {error!r}")

    # --- beginning --------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        record = self.history.command
        try:
            self._command = self._services.catalogue.build(record.type, record.arguments)
            steps = self._command.steps()
        except InvalidInput as error:
            await self._give_up(f"this engine cannot read it: {error}")
            raise _Left from error
        self._steps = {step.name: step for step in steps}
        self._declared = tuple(Declared(s.name, s.idempotent, s.probes()) for s in steps)
        self._ambiguous = self._ambiguous and self._may_be_on_its_way()
        if not self._ambiguous and record.quarantine_until is not None:
            self._ambiguous = True  # as an engine before this one has noted
        if record.state in (CommandState.QUEUED, CommandState.RUNNING) and record.has_locks:
            await self._prove_lock()

    def _may_be_on_its_way(self) -> bool:
        """Whether the engine before this one may have sent something that arrives only now."""
        if (open_step := self.history.open_step) is not None:
            known = self._steps.get(open_step.name)
            return known is not None and known.sends() and not open_step_waits(open_step)
        live = [self._steps.get(name) for name in self.history.live]
        return self.history.command.goal is not None and any(s is not None and s.undoes() for s in live)

    async def _prove_lock(self) -> None:
        """A command whose row came after its locks were swept must not run."""
        token = await self._answered(lambda: self._services.locks.command_token(self.id))
        if token == self.history.command.lock_token:
            return
        if self.history.steps:
            await self._write(lambda tx: tx.ask_operator("its locks are gone"))
        else:
            await self._end(CommandState.FAILED, "its locks were gone before it began")
        raise _Left

    async def _give_up(self, why: str) -> None:
        LOG.error("command=%s: %s", self.id, why)
        await self._write(lambda tx: tx.ask_operator(why))

    # --- moves ------------------------------------------------------------------------------------

    async def _make(self, move: planning.Move) -> None:
        match move:
            case planning.Nothing():
                raise _Left
            case planning.TakeLocks():
                await self._take_locks()
            case planning.Intend():
                await self._try_to_write(lambda tx: self._intend_next(tx, move))
            case planning.AwaitChildren():
                await self._await_children(move)
            case planning.Act(step):
                await self._act(step)
            case planning.Probe(step):
                await self._probe(step)
            case planning.SettleFenced(step):
                await self._settle_fenced(step)
            case planning.Record(step):
                await self._record(step, {})
            case planning.BeginUndoing(goal, error):
                await self._write(lambda tx: tx.begin_undoing(goal, error))
            case planning.Undo(step, effect):
                await self._undo(step, effect)
            case planning.GoOn():
                await self._write(lambda tx: tx.go_on())
            case planning.AskOperator(why):
                LOG.warning("command=%s: needs an operator: %s", self.id, why)
                await self._write(lambda tx: tx.ask_operator(why))
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
            await tx.record(step, record, result, of=len(self._steps))
            following = planning.plan(tx.history, self._declared)
            if isinstance(following, planning.Intend) and not self._halted.is_set():
                await self._intend_next(tx, following)
            elif following == planning.End(CommandState.SUCCEEDED) and not self._quarantined():
                await tx.end(CommandState.SUCCEEDED)

        try:
            await self._write(record_and_move_on)
        except (AuthorityLost, Fenced, Unavailable, _Left):
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
        context = self._context(self.history, record)
        self._unsent = None
        self.claim.authority.check()
        try:
            async with asyncio.timeout(step.timeout_seconds):
                result = await step.act(context)
        except HostUnreachable as error:
            self._unsent = record.operation_id
            await self._wait_for_host(record, step, error)
        except GoBack as back:
            await self._go_back(record, back)
        except REFUSALS as error:
            await self._fail(str(error))
        except (AuthorityLost, Fenced):
            raise
        except (Unavailable, TimeoutError) as error:
            await self._outcome_unknown(record, step, str(error) or "no answer in time")
        except Exception as error:
            LOG.exception("command=%s step=%s: failed unexpectedly", self.id, record.name)
            await self._outcome_unknown(record, step, f"failed unexpectedly: {error!r}")
        else:
            await self._record(record, result)

    async def _outcome_unknown(self, record: StepRecord, step: Step, why: str) -> None:
        """An idempotent step is tried again, some times; any other one is up to the plan."""
        LOG.warning("command=%s step=%s: outcome unknown: %s", self.id, record.name, why)
        if not step.idempotent:
            self._start_waiting(record.operation_id + "?")
            return
        self._tries += 1
        if self._tries >= self._services.settings.tries:
            self._tries = 0
            await self._fail(why, ambiguous=True)
        else:
            await self._pause(self._retry_seconds(self._tries))

    async def _wait_for_host(self, record: StepRecord, step: Step, error: HostUnreachable) -> None:
        waited = self._start_waiting(record.operation_id)
        if waited >= step.timeout_seconds:
            await self._fail(f"{error} (waited {waited:.0f} s)")
            return
        if self.history.command.state is not CommandState.WAITING:
            await self._write(lambda tx: tx.change(state=CommandState.WAITING, message=str(error)))
        self._tries += 1
        await self._pause(min(self._retry_seconds(self._tries), step.timeout_seconds - waited))

    async def _probe(self, record: StepRecord) -> None:
        step = self._steps[record.name]
        waited = self._start_waiting(record.operation_id + "?")
        try:
            self.claim.authority.check()
            async with asyncio.timeout(step.timeout_seconds):
                found = await step.probe(self._context(self.history, record))
        except (AuthorityLost, Fenced):
            raise
        except (EngineError, TimeoutError) as error:
            LOG.info("command=%s step=%s: cannot be probed: %s", self.id, record.name, error)
            found = None
        except Exception:
            LOG.exception("command=%s step=%s: the probe failed unexpectedly", self.id, record.name)
            found = None
        if isinstance(found, Happened):
            await self._record(record, found.result)
        elif found is NOT_HAPPENED:
            # Within the quarantine a dead engine's verb may still arrive: ask again after it.
            if not await self._sit_out_quarantine():
                self._unsent = record.operation_id
        elif waited >= step.probe_seconds:
            why = f"step {record.name}: it could not be found out within {waited:.0f} s what became of it"
            await self._write(lambda tx: tx.ask_operator(why))
        else:
            self._tries += 1
            await self._pause(min(self._retry_seconds(self._tries), max(0.05, step.probe_seconds - waited)))

    async def _settle_fenced(self, record: StepRecord) -> None:
        """Its host was off: nothing of it is on its way, and nothing has to be undone there."""
        self._unsent = None
        try:
            found = await self._steps[record.name].fenced(self._context(self.history, record))
        except GoBack as back:
            await self._go_back(record, back)
            return
        if isinstance(found, Happened):
            await self._record(record, found.result)
        else:
            await self._fail(f"the host of its step {record.name} was fenced")

    async def _await_children(self, move: planning.AwaitChildren) -> None:
        async def park(tx: Transaction) -> None:
            tx.change(state=CommandState.WAITING)
            if move.cancel:
                await tx.cancel_children(move.step)

        await self._write(park)
        # Between our last read and this commit the last child may have ended and found nobody waiting.
        fresh = await self._answered(lambda: self._services.store.history(self.id))
        if len(fresh.children) < move.step.children:
            raise _Left
        self.history = fresh
        if fresh.command.epoch != self.claim.epoch:
            raise _Left

    async def _undo(self, record: StepRecord, effect: bool) -> None:
        step = self._steps[record.name]
        if effect:
            if step.undoes() and record.host_id is not None:
                there = self._services.shard_of(record.host_id)
                if there != self.history.command.shard:  # only the owner of its host can undo it
                    await self._write(lambda tx: tx.travel(there))
                    return
            if self._ambiguous and await self._sit_out_quarantine():
                return
            try:
                self.claim.authority.check()
                async with asyncio.timeout(step.timeout_seconds):
                    await step.compensate(self._context(self.history, record))
            except (AuthorityLost, Fenced):
                raise
            except Exception as error:
                await self._cannot_undo(record, error)
                return
        self._tries = 0
        await self._write(lambda tx: tx.undo(step, record))

    async def _cannot_undo(self, record: StepRecord, error: Exception) -> None:
        LOG.warning("command=%s step=%s: cannot be undone: %s", self.id, record.name, error)
        self._tries += 1
        if self._tries < self._services.settings.tries:
            await self._pause(self._retry_seconds(self._tries))
            return
        why = f"step {record.name} cannot be undone: {error or type(error).__name__}"
        await self._write(lambda tx: tx.ask_operator(why))

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
            held = await self._answered(lambda: self._services.locks.command_token(self.id))
            if held is not None:  # by an owner before us, who did not get to writing it down
                await self._write(lambda tx: tx.change(lock_token=held, state=CommandState.QUEUED))
            elif left <= 0:
                await self._end(CommandState.FAILED, str(refused))
            return
        except Unavailable:
            await self._pause(self._retry_seconds(1))
            return
        await self._write(lambda tx: tx.change(lock_token=token, state=CommandState.QUEUED))

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
        await self._write(lambda tx: tx.begin_undoing(Goal.FAILED, error, ambiguous=ambiguous))

    async def _go_back(self, record: StepRecord, back: GoBack) -> None:
        why = str(back)
        if back.to not in self._steps or self.history.attempts(back.to) >= self._command.attempts:
            await self._fail(f"{why} (given up after {self.history.attempts(back.to)} attempts)")
            return
        LOG.info("command=%s step=%s: goes back to %s: %s", self.id, record.name, back.to, why)
        await self._write(lambda tx: tx.begin_undoing(Goal.AGAIN, why, undo_from=back.to))

    async def _hand_back(self) -> None:
        if self.history.open_step is None or self._unsent is not None or self.history.open_step.children:
            await self._write(lambda tx: tx.change(epoch=None))
        raise _Left

    # --- waiting ----------------------------------------------------------------------------------

    def _quarantined(self) -> bool:
        return self._ambiguous and self._quarantine_left() > 0

    def _quarantine_left(self) -> float:
        if self._late_until is None:
            return 0.0
        return (self._late_until - self._services.now()).total_seconds()

    async def _sit_out_quarantine(self) -> bool:
        """Wait for its end; whether there was anything to wait for (plan again then)."""
        if (left := self._quarantine_left()) <= 0:
            return False
        if self.history.command.quarantine_until is None:
            until = self._late_until
            await self._write(lambda tx: tx.change(quarantine_until=until, state=CommandState.WAITING))
        await self._pause(left)
        return True

    def _start_waiting(self, for_what: str) -> float:
        """Seconds since this was first waited for."""
        if self._since[0] != for_what:
            self._since = (for_what, boottime())
            self._tries = 0
        return boottime() - self._since[1]

    async def _pause(self, seconds: float) -> None:
        """Wait, or less where there is news."""
        self._news.clear()
        if self._halted.is_set():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    def _retry_seconds(self, tries: int) -> float:
        pauses = self._services.settings.retry_seconds
        return pauses[min(tries, len(pauses)) - 1]

    # --- writing ----------------------------------------------------------------------------------

    async def _try_to_write(self, moves: Moves, *, recording: StepRecord | None = None) -> None:
        """Write; what the plugin refuses makes the command fail."""
        try:
            await self._write(moves)
        except GoBack as back:
            if recording is None:
                raise
            await self._go_back(recording, back)
        except (AuthorityLost, Fenced, Unavailable, _Left):
            raise
        except Exception as error:
            if not isinstance(error, REFUSALS):
                LOG.exception("command=%s: its plugin failed", self.id)
            self._unsent = None
            if self.history.command.started_at is None:
                why = str(error) or repr(error)
                await self._write(lambda tx: tx.end(CommandState.FAILED, why))
                await self._release_locks()
            else:
                self._result = None
                await self._fail(str(error) or repr(error), ambiguous=recording is not None)

    async def _write(self, moves: Moves) -> None:
        """One transaction, until the database has answered for it."""
        failures = 0
        while True:
            before = self.history

            async def write(connection: store.Connection) -> Written:
                tx = Transaction(connection, self._services, self.history, self._context)
                if (done := moves(tx)) is not None:
                    await done
                return tx.finish()

            try:
                self.claim.authority.check()
                written = await self._services.ledger.commit(self.claim.shard, self.claim.epoch, write)
            except Fenced:
                await self._meet_fence()
                return
            except Unavailable as error:
                failures += 1
                LOG.warning("command=%s: its rows cannot be written: %s", self.id, error)
                await asyncio.sleep(self._retry_seconds(failures))
                fresh = await self._answered(lambda: self._services.store.history(self.id))
                if fresh.command.epoch != self.claim.epoch:
                    raise _Left from error
                cancelled = fresh.command.cancel_requested
                if cancelled:
                    self.cancel_requested()
                if fresh != self.history and fresh != before:
                    self.history = fresh  # it was written after all: plan again
                    return
                continue
            cancelled = self.history.command.cancel_requested
            self.history = written.history
            for shard in written.told:
                await self._services.bump(shard)
            if cancelled:
                self.cancel_requested()
            if self.history.command.epoch is None:
                raise _Left
            return

    async def _meet_fence(self) -> None:
        """Was it claimed by somebody else, or were its locks released under it?"""
        fresh = await self._answered(lambda: self._services.store.history(self.id))
        if fresh.command.epoch != self.claim.epoch or fresh.command.shard != self.claim.shard:
            raise _Left
        if fresh != self.history:
            self.history = fresh
            return
        if self._orphaned or fresh.command.root_id == self.id:
            raise Fenced(f"command {self.id}: its shard has another owner")
        self._orphaned = True
        await self._write(lambda tx: tx.orphan())

    async def _answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer."""
        failures = 0
        while True:
            self.claim.authority.check()
            try:
                return await ask()
            except Unavailable as error:
                failures += 1
                LOG.warning("command=%s: no answer: %s", self.id, error)
                await asyncio.sleep(self._retry_seconds(failures))

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


def open_step_waits(step: StepRecord | None) -> bool:
    """Whether it is open only because its children have not ended."""
    return step is not None and step.state is StepState.INTENDED and step.children > 0
