"""The writing moves of a command, each a function of one guarded transaction.

Invariant: a step's intention, its result and what its plugin writes are committed together with the
command's own row, or not at all. All may be called again after a transaction that failed.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

from engine import arguments
from engine.commands import store
from engine.commands.guarded import store as guarded
from engine.commands.planning import Intend
from engine.commands.records import CommandRecord, CommandState, Goal, History, StepRecord, StepState, Verdict
from engine.commands.services import Services
from engine.db.entities import EntityRows
from engine.db.events import NewEvent, record_all
from engine.db.groupcommit import Together
from engine.errors import Fenced
from engine.plugin import Child, Command, HostId, Json, ShardId, Step, StepContext

MakeContext = Callable[[History, StepRecord], StepContext]


@dataclass(slots=True, eq=False, kw_only=True)
class Written(Together):
    """What a transaction has come to: `told` are shards whose owners are to look. The rows of the command
    itself are written with those of all others that share the commit."""

    history: History
    told: set[ShardId]
    change: guarded.Change | None
    inserted: Sequence[StepRecord]
    changed: Sequence[tuple[StepRecord, StepRecord]]
    events: Sequence[NewEvent]

    @classmethod
    async def write_all(cls, connection: store.Connection, group: Sequence[Self]) -> None:
        changes = {each.change.found.id: each for each in group if each.change is not None}
        cancelled = await guarded.change(connection, [e.change for e in group if e.change is not None])
        for id, each in changes.items():
            if id not in cancelled:
                each.refusal = Fenced(f"command {id} is no longer ours, or its locks are gone")
            elif cancelled[id] != each.history.command.cancel_requested:
                command = dataclasses.replace(each.history.command, cancel_requested=cancelled[id])
                each.history = dataclasses.replace(each.history, command=command)
        await guarded.insert_steps(connection, [record for each in group for record in each.inserted])
        found = await guarded.change_steps(connection, [pair for each in group for pair in each.changed])
        for each in group:
            for before, record in each.changed:
                if before.operation_id not in found:
                    why = f"step {record.name} of command {record.command_id} was changed by somebody else"
                    each.refusal = each.refusal or Fenced(why)
        await record_all(connection, [event for each in group for event in each.events])
        await cls._wake_parents(connection, group)

    @classmethod
    async def _wake_parents(cls, connection: store.Connection, group: Sequence[Self]) -> None:
        """Once all ends that are written here can be seen: the last child wakes its parent."""
        ended = {
            each.history.command.parent_operation: each
            for each in group
            if each.history.command.ended and each.history.command.parent_id is not None
        }
        for each in ended.values():
            shard = await guarded.wake_parent(connection, each.history.command)
            if shard is not None:
                each.told.add(shard)


class Transaction:
    """One open transaction for one command; what it has come to is `history`."""

    def __init__(
        self, connection: store.Connection, services: Services, history: History, context: MakeContext
    ) -> None:
        self.history = history
        self.now: datetime = services.now()
        self._found = history
        self._orphan = False
        self._connection = connection
        self._services = services
        self._context = context
        command = history.command
        self.rows = EntityRows(
            connection,
            shard_of=services.shard_of,
            engine=services.engine,
            command={"command": command.id, "type": command.type},
            now=self.now,
        )

    def finish(self) -> Written:
        """What is still to be written; called once, last."""
        before = {step.operation_id: step for step in self._found.steps}
        steps = self.history.steps
        changed = [(before[s.operation_id], s) for s in steps if s.operation_id in before]
        return Written(
            history=self.history,
            told=self.rows.told,
            change=guarded.Change(self._found.command, self.history.command, self._orphan),
            inserted=[s for s in steps if s.operation_id not in before],
            changed=[(found, step) for found, step in changed if found is not step],
            events=self.rows.take_events(),
        )

    def change(self, **changes: Any) -> None:
        """The command's row. It is written, and with it guarded, once for the whole transaction."""
        record = dataclasses.replace(self.history.command, **changes)
        self.history = dataclasses.replace(self.history, command=record)

    def change_step(self, record: StepRecord, **changes: Any) -> None:
        changed = dataclasses.replace(record, **changes)
        steps = tuple(changed if s.operation_id == record.operation_id else s for s in self.history.steps)
        self.history = dataclasses.replace(self.history, steps=steps)

    async def start(self, command: Command) -> None:
        """Validate, and say that it runs."""
        await command.validate(self.rows)
        self.change(state=CommandState.RUNNING, started_at=self.now)
        await self._tell_of("command_started", "was started")

    async def intend(self, step: Step, move: Intend, operation_id: str) -> bool:
        """Write the intention; or, where the step's host belongs to another shard, move there.

        Whether it was written: False means that the command has travelled.
        """
        command = self.history.command
        record = StepRecord(
            operation_id=operation_id,
            command_id=command.id,
            number=move.number,
            name=move.name,
            attempt=move.attempt,
            state=StepState.INTENDED,
            result={},
            intended_at=self.now,
        )
        host_id = await step.on_host(self._context(self.history, record), self.rows)
        if host_id is not None and (there := self._services.shard_of(host_id)) != command.shard:
            self.travel(there)
            return False
        if host_id is not None:
            record = dataclasses.replace(record, host_id=HostId(host_id))
        context = self._context(self.history, record)
        children = await step.children(context, self.rows)
        if children:
            record = dataclasses.replace(record, children=len(children))
        await step.intend(context, self.rows)
        self.change(
            state=CommandState.WAITING if children else CommandState.RUNNING,
            message=f"{move.name}" if move.attempt == 1 else f"{move.name}, attempt {move.attempt}",
        )
        if children:
            await self._insert_children(record, children)
        self.history = dataclasses.replace(self.history, steps=(*self.history.steps, record), children=())
        return True

    def travel(self, there: ShardId) -> None:
        self.change(shard=there, epoch=None, state=CommandState.QUEUED)
        self.rows.told.add(there)

    async def record(self, step: Step, record: StepRecord, result: Json, *, of: int) -> None:
        """The step, one `of` so many, has happened: write its result and what follows."""
        kept = await step.record(self._context(self.history, record), self.rows, result)
        self.change_step(
            record,
            state=StepState.DONE,
            result=dict(result if kept is None else kept),
            ended_at=self.now,
        )
        self.change(state=CommandState.RUNNING, percent=100 * len(self.history.data) // max(1, of))

    def begin_undoing(
        self, goal: Goal, error: str, *, undo_from: str | None = None, ambiguous: bool = False
    ) -> None:
        """The open step, if any, has failed; what is behind it is to be undone."""
        if (open_step := self.history.open_step) is not None:
            verdict = {"verdict": Verdict.UNKNOWN} if ambiguous else {}
            self.change_step(
                open_step, state=StepState.FAILED, error=error or "failed", ended_at=self.now, **verdict
            )
        changes: dict[str, Any] = {"goal": goal, "undo_from": undo_from, "state": CommandState.COMPENSATING}
        if goal is not Goal.AGAIN:
            changes["error"] = error
        self.change(**changes)

    async def undo(self, step: Step, record: StepRecord) -> None:
        await step.revert(self._context(self.history, record), self.rows)
        self.change_step(record, state=StepState.UNDONE)

    def go_on(self) -> None:
        self.change(goal=None, undo_from=None, state=CommandState.RUNNING)

    async def ask_operator(self, why: str) -> None:
        self.change(state=CommandState.NEEDS_OPERATOR, error=why)
        await self._tell_of("command_needs_operator", f"needs an operator: {why}")

    async def orphan(self) -> None:
        """Its root has ended or has lost its locks: nothing covers it any more."""
        self._orphan = True
        await self.ask_operator("the command above it has ended or has lost its locks")

    async def end(self, state: CommandState, error: str | None = None) -> None:
        changes: dict[str, Any] = {"state": state, "ended_at": self.now}
        if error is not None:
            changes["error"] = error
        if state is CommandState.SUCCEEDED:
            changes |= {"percent": 100, "message": ""}
        self.change(**changes)
        ended = self.history.command
        await self._tell_of(f"command_{state}", f"{state}: {ended.error}" if ended.error else f"{state}")

    async def cancel_children(self, record: StepRecord) -> None:
        self.rows.told.update(await guarded.cancel_children(self._connection, record.operation_id))

    async def _tell_of(self, kind: str, what: str) -> None:
        command = self.history.command
        host_id = HostId(command.entity_id) if command.entity_kind == "host" else None
        await self.rows.event(
            kind, f"{command.type} of {command.entity_kind} {command.entity_id} {what}", host_id=host_id
        )

    async def _insert_children(self, parent_step: StepRecord, children: Sequence[Child]) -> None:
        parent = self.history.command
        held = await guarded.lock_keys(self._connection, {parent.id, parent.root_id})
        records = [self._child(parent, parent_step, child, held) for child in children]
        await store.insert(self._connection, records)
        self.rows.told.update(record.shard for record in records)

    def _child(
        self,
        parent: CommandRecord,
        parent_step: StepRecord,
        child: Child,
        held: Sequence[Mapping[str, list[str]]],
    ) -> CommandRecord:
        command = self._services.catalogue.build(child.command, child.arguments)
        exclusive = {key for locks in held for key in locks["exclusive"]}
        inherited = exclusive | {key for locks in held for key in locks["shared"]}
        wanted = command.locks()
        locks = {
            "exclusive": sorted(wanted.exclusive - exclusive),
            "shared": sorted(wanted.shared - inherited),
        }
        return new_record(
            child.command,
            command,
            shard_of=self._services.shard_of,
            user=parent.user,
            now=self.now,
            locks=locks,
            root_id=parent.root_id,
            parent_id=parent.id,
            parent_operation=parent_step.operation_id,
            lock_wait_seconds=child.lock_wait_seconds if any(locks.values()) else None,
        )


def new_record(
    type: str,
    command: Command,
    *,
    shard_of: Callable[[str], ShardId],
    user: str,
    now: datetime,
    locks: Mapping[str, list[str]],
    id: str | None = None,
    root_id: str | None = None,
    parent_id: str | None = None,
    parent_operation: str | None = None,
    lock_token: int | None = None,
    lock_wait_seconds: float | None = None,
) -> CommandRecord:
    """The row of a command that nobody has run yet."""
    entity = command.entity()
    new_id = id or str(uuid.uuid4())
    waits = lock_wait_seconds is not None
    return CommandRecord(
        id=new_id,
        type=type,
        arguments=arguments.plain(command.arguments),
        entity_kind=entity.kind,
        entity_id=entity.id,
        state=CommandState.WAITING_LOCK if waits else CommandState.QUEUED,
        shard=shard_of(entity.id),
        epoch=None,
        engine=None,
        root_id=root_id or new_id,
        parent_id=parent_id,
        parent_operation=parent_operation,
        locks=dict(locks),
        lock_token=lock_token,
        lock_wait_until=now + timedelta(seconds=lock_wait_seconds) if lock_wait_seconds is not None else None,
        user=user,
        goal=None,
        undo_from=None,
        cancel_requested=False,
        quarantine_until=None,
        percent=0,
        message="",
        error="",
        created_at=now,
        started_at=None,
        ended_at=None,
    )
