"""Edits: rows that people add, change and remove, as commands that end with their submission.

An edit needs no host, so no engine has to carry it out: its change, its event and the row of a command
that has succeeded are one transaction, under the locks of the entity. It is refused, with the
holder's name, while another command has the entity; it is listed with the others; and it either is
whole or never was. What a crash leaves of it are locks of a command that there is not, or that has
ended, which the sweeper frees. Used by the API.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from engine.clock import utcnow
from engine.commands import store
from engine.commands.records import CommandRecord, CommandState
from engine.commands.services import CommandLocks
from engine.commands.submission import Submission, digest_of
from engine.errors import EngineError, Unavailable
from engine.plugin import Json
from engine.sharding.hashing import shard_of


class NothingIsLocked(Unavailable):
    """No engine has ever been here, so that no lock can be taken, and none is held either."""


class HasId(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=HasId)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """`type` is what it is called among the commands; `kind` and `id` the entity, which it has for
    itself; no `id` for one that is to be added."""

    type: str
    kind: str
    id: str | None = None
    arguments: Json

    @property
    def keys(self) -> list[str]:
        """What it locks."""
        return [f"{self.kind}:{self.id}"] if self.id is not None else []


@dataclass(frozen=True, slots=True)
class Edited(Generic[T]):
    """What became of it: the entity as `write` returned it; None where the idempotency key stood for an
    edit before this one."""

    command: CommandRecord
    entity: T | None


class Edits:
    """`locks` gives the locks of the present session, or raises `Unavailable`."""

    def __init__(
        self,
        submission: Submission,
        *,
        locks: Callable[[], Awaitable[CommandLocks]],
        shards: int,
        now: Callable[[], datetime] = utcnow,
    ) -> None:
        self._submission = submission
        self._locks = locks
        self._shards = shards
        self._now = now

    async def perform(
        self,
        edit: Edit,
        write: Callable[[store.Connection], Awaitable[T]],
        *,
        user: str = "",
        key: str | None = None,
    ) -> Edited[T]:
        """Raises what `write` does; `Conflict` (`LockRefused` with the holder; a key that stands for
        something else), `Unavailable`."""
        attempt = _Attempt(edit, str(uuid.uuid4()), user, key, digest_of(edit.type, _asked(edit)))
        if key is not None and (found := await self._submission.known(user, key, attempt.digest)) is not None:
            return Edited(found.command, None)
        try:
            return await self._locked(attempt, write)
        except EngineError as refusal:
            if key is not None:
                found = await self._submission.settled(user, key, attempt.digest, refusal)
                if found is not None:
                    return Edited(found.command, None)
            raise

    async def _locked(
        self, attempt: _Attempt, write: Callable[[store.Connection], Awaitable[T]]
    ) -> Edited[T]:
        edit, locks, token = attempt.edit, None, None
        if edit.id is not None:
            with contextlib.suppress(NothingIsLocked):
                locks = await self._locks()
        if locks is None:
            return await self._write(attempt, None, write)
        try:
            token = await locks.take_for_command(
                attempt.command_id,
                exclusive=frozenset(edit.keys),
                shared=frozenset(),
                user=attempt.user,
                reason=edit.type,
            )
            edited = await self._write(attempt, token, write)
        except BaseException as error:
            await self._submission.give_back(locks, attempt.command_id, error)
            raise
        with contextlib.suppress(EngineError):  # else the sweeper does it: the command has ended
            await locks.release_command(attempt.command_id)
        return edited

    async def _write(
        self, attempt: _Attempt, token: int | None, write: Callable[[store.Connection], Awaitable[T]]
    ) -> Edited[T]:
        async with self._submission.store.database.writing() as connection:
            entity = await write(connection)
            record = self._record(attempt, entity.id, token)
            await store.insert(connection, [record])
            if attempt.key is not None:
                await store.insert_key(
                    connection,
                    user=attempt.user,
                    key=attempt.key,
                    digest=attempt.digest,
                    command_id=record.id,
                    at=record.created_at,
                )
        return Edited(record, entity)

    def _record(self, attempt: _Attempt, entity_id: str, token: int | None) -> CommandRecord:
        edit, now = attempt.edit, self._now()
        return CommandRecord(
            id=attempt.command_id,
            type=edit.type,
            arguments=dict(edit.arguments),
            entity_kind=edit.kind,
            entity_id=entity_id,
            state=CommandState.SUCCEEDED,
            shard=shard_of(entity_id, self._shards),
            epoch=None,
            engine=None,
            root_id=attempt.command_id,
            parent_id=None,
            parent_operation=None,
            locks={"exclusive": edit.keys if token is not None else [], "shared": []},
            lock_token=token,
            lock_wait_until=None,
            user=attempt.user,
            goal=None,
            undo_from=None,
            cancel_requested=False,
            quarantine_until=None,
            percent=100,
            message="",
            error="",
            created_at=now,
            started_at=now,
            ended_at=now,
        )


@dataclass(frozen=True, slots=True)
class _Attempt:
    edit: Edit
    command_id: str
    user: str
    key: str | None
    digest: str


def _asked(edit: Edit) -> Json:
    return {"entity": edit.id, **edit.arguments}
