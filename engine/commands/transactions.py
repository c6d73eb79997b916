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
from typing import Any

from engine import arguments
from engine.commands import store
from engine.commands.planning import Intend
from engine.commands.records import CommandRecord, CommandState, Goal, History, StepRecord, StepState, Verdict
from engine.commands.services import Services
from engine.db.entities import EntityRows
from engine.plugin import Child, Command, HostId, Json, ShardId, Step, StepContext

MakeContext = Callable[[History, StepRecord], StepContext]


@dataclass(slots=True)
class Written:
    """What a transaction has come to. `told`: shards whose owners are to look."""

    history: History
    told: set[ShardId]


class Transaction:
    """One open transaction for one command; what it has come to is `history`."""

    def __init__(
        self, connection: store.Connection, services: Services, history: History, context: MakeContext
    ) -> None:
        self.history = history
        self.now: datetime = services.now()
        self._found = history.command
        self._changes: dict[str, Any] = {}
        self._guarded = False
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

    async def finish(self) -> Written:
        """Write what is still to be written; called once, last."""
        if self._changes or not self._guarded:
            await self._guard()
        await self.rows.flush()
        return Written(self.history, self.rows.told)

    async def change(self, **changes: Any) -> None:
        """The command's row. It is written, and with it guarded, once for the whole transaction."""
        self._changes |= changes
        record = dataclasses.replace(self.history.command, **changes)
        self.history = dataclasses.replace(self.history, command=record)

    async def _guard(self) -> None:
        record = await store.change(self._connection, self._found, orphan=self._orphan, **self._changes)
        self.history = dataclasses.replace(self.history, command=record)
        self._found, self._changes, self._guarded = record, {}, True

    async def change_step(self, record: StepRecord, **changes: Any) -> StepRecord:
        changed = await store.change_step(self._connection, record, **changes)
        steps = tuple(changed if s.operation_id == record.operation_id else s for s in self.history.steps)
        self.history = dataclasses.replace(self.history, steps=steps)
        return changed

    async def start(self, command: Command) -> None:
        """Validate, and say that it runs."""
        await command.validate(self.rows)
        await self.change(state=CommandState.RUNNING, started_at=self.now)
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
            await self.travel(there)
            return False
        record = dataclasses.replace(record, host_id=HostId(host_id) if host_id else None)
        context = self._context(self.history, record)
        children = await step.children(context, self.rows)
        record = dataclasses.replace(record, children=len(children))
        await step.intend(context, self.rows)
        await self.change(
            state=CommandState.WAITING if children else CommandState.RUNNING,
            message=f"{move.name}" if move.attempt == 1 else f"{move.name}, attempt {move.attempt}",
        )
        await store.insert_step(self._connection, record)
        if children:
            await self._insert_children(record, children)
        self.history = dataclasses.replace(self.history, steps=(*self.history.steps, record), children=())
        return True

    async def travel(self, there: ShardId) -> None:
        await self.change(shard=there, epoch=None, state=CommandState.QUEUED)
        self.rows.told.add(there)

    async def record(self, step: Step, record: StepRecord, result: Json, *, of: int) -> None:
        """The step, one `of` so many, has happened: write its result and what follows."""
        kept = await step.record(self._context(self.history, record), self.rows, result)
        await self.change_step(
            record,
            state=StepState.DONE,
            result=dict(result if kept is None else kept),
            ended_at=self.now,
        )
        await self.change(state=CommandState.RUNNING, percent=100 * len(self.history.data) // max(1, of))

    async def begin_undoing(
        self, goal: Goal, error: str, *, undo_from: str | None = None, ambiguous: bool = False
    ) -> None:
        """The open step, if any, has failed; what is behind it is to be undone."""
        if (open_step := self.history.open_step) is not None:
            verdict = {"verdict": Verdict.UNKNOWN} if ambiguous else {}
            await self.change_step(
                open_step, state=StepState.FAILED, error=error or "failed", ended_at=self.now, **verdict
            )
        changes: dict[str, Any] = {"goal": goal, "undo_from": undo_from, "state": CommandState.COMPENSATING}
        if goal is not Goal.AGAIN:
            changes["error"] = error
        await self.change(**changes)

    async def undo(self, step: Step, record: StepRecord) -> None:
        await step.revert(self._context(self.history, record), self.rows)
        await self.change_step(record, state=StepState.UNDONE)
        await self.change()

    async def go_on(self) -> None:
        await self.change(goal=None, undo_from=None, state=CommandState.RUNNING)

    async def ask_operator(self, why: str) -> None:
        await self.change(state=CommandState.NEEDS_OPERATOR, error=why)
        await self._tell_of("command_needs_operator", f"needs an operator: {why}")

    async def orphan(self) -> None:
        """Its root has ended or has lost its locks: nothing covers it any more."""
        self._orphan = True
        await self.ask_operator("the command above it has ended or has lost its locks")

    async def end(self, state: CommandState, error: str | None = None) -> None:
        command = self.history.command
        changes: dict[str, Any] = {"state": state, "ended_at": self.now}
        if error is not None:
            changes["error"] = error
        if state is CommandState.SUCCEEDED:
            changes |= {"percent": 100, "message": ""}
        await self.change(**changes)
        ended = self.history.command
        await self._tell_of(f"command_{state}", f"{state}: {ended.error}" if ended.error else f"{state}")
        if command.parent_id is not None:
            await self._guard()  # the end has to be seen by whoever counts the children
            parent_shard = await store.wake_parent(self._connection, command)
            if parent_shard is not None:
                self.rows.told.add(parent_shard)

    async def cancel_children(self, record: StepRecord) -> None:
        self.rows.told.update(await store.cancel_children(self._connection, record.operation_id))

    async def _tell_of(self, kind: str, what: str) -> None:
        command = self.history.command
        host_id = HostId(command.entity_id) if command.entity_kind == "host" else None
        await self.rows.event(
            kind, f"{command.type} of {command.entity_kind} {command.entity_id} {what}", host_id=host_id
        )

    async def _insert_children(self, parent_step: StepRecord, children: Sequence[Child]) -> None:
        parent = self.history.command
        held = await store.lock_keys(self._connection, {parent.id, parent.root_id})
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
