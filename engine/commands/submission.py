"""Submitting: what a user asks for becomes a row before it is anything else.

In order: the arguments are checked, the idempotency key is looked up, the locks are taken in the name
of the command's future id, and the row, its key and its event are inserted in one transaction. A
refusal on the way gives the locks back; a crash on the way leaves them to the sweeper. Used by the
API; `operate` and `cancel` are what else may be done to a command from outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

import orjson

from engine.clock import utcnow
from engine.commands import store
from engine.commands.catalogue import Catalogue
from engine.commands.endings import Endings
from engine.commands.records import CommandRecord, History, Verdict
from engine.commands.services import CommandLocks
from engine.commands.store import CommandStore
from engine.commands.transactions import new_record
from engine.db.entities import EntityRows
from engine.db.errors import Duplicate
from engine.errors import Conflict, EngineError, InvalidInput
from engine.locks.holds import LockRefused
from engine.plugin import Command, Json, ShardId
from engine.sharding.hashing import shard_of

LOG = logging.getLogger(__name__)

FIRST_LOOK_SECONDS = 0.01
SAME_REQUEST_SECONDS = 2.0
"""How long a request may be between its locks and its row before another with its key gives up on it."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """The command; `again` where the idempotency key stood for it already."""

    command: CommandRecord
    again: bool = False


class Submission:
    """One an API process. `locks` gives the locks of the present session, or raises `Unavailable`."""

    def __init__(
        self,
        *,
        store: CommandStore,
        catalogue: Catalogue,
        locks: Callable[[], Awaitable[CommandLocks]],
        bump: Callable[[ShardId], Awaitable[None]],
        shards: int,
        now: Callable[[], datetime] = utcnow,
    ) -> None:
        self.store = store
        self.catalogue = catalogue
        self._locks = locks
        self._bump = bump
        self._endings = Endings(store.still_open)
        self._shards = shards
        self._now = now

    async def submit(
        self,
        type: str,
        arguments: Json,
        *,
        user: str = "",
        key: str | None = None,
        lock_wait_seconds: float | None = None,
    ) -> Submitted:
        """Raises `InvalidInput` naming each bad field, `NotFound`, `Conflict` (`LockRefused` with the
        holder; a key that stands for something else), `Unavailable`.

        `lock_wait_seconds`: accept it though its locks are taken; its owner waits for them.
        """
        command = self.catalogue.build(type, arguments)
        digest = digest_of(type, arguments)
        if key is not None and (known := await self.known(user, key, digest)) is not None:
            return known
        record = self._record(type, command, user, lock_wait_seconds)
        try:
            record = await self._accept(command, record, key, digest, waits=lock_wait_seconds is not None)
        except EngineError as refusal:
            # Whoever was first with this key has the locks, or has inserted the row meanwhile.
            if key is not None and (known := await self.settled(user, key, digest, refusal)) is not None:
                return known
            raise
        await self._tell(record.shard)
        return Submitted(record)

    async def cancel(self, command_id: str, *, user: str = "") -> CommandRecord:
        """Ask for it; what is under way ends first. Raises `NotFound`, `Conflict` once it has ended."""
        async with self.store.database.writing() as connection:
            shard = await store.request_cancel(connection, command_id)
            rows = self._rows(connection, command_id, user)
            await rows.event("command_cancel_requested", f"command {command_id} is to be cancelled")
            await rows.flush()
        await self._tell(shard)
        return (await self.store.history(command_id)).command

    async def resolve(self, command_id: str, outcome: str, *, user: str = "") -> CommandRecord:
        """An operator says what became of the open step: 'happened', 'not_happened'; or ends the
        command as it is: 'abandon'. Raises `Conflict` unless it needs an operator."""
        if outcome not in (Verdict.HAPPENED, Verdict.NOT_HAPPENED, "abandon"):
            raise InvalidInput(
                "outcome must be happened, not_happened or abandon",
                fields={"outcome": "must be one of happened, not_happened, abandon"},
            )
        verdict = None if outcome == "abandon" else Verdict(outcome)
        async with self.store.database.writing() as connection:
            shard = await store.resolve(connection, command_id, verdict, at=self._now())
            rows = self._rows(connection, command_id, user)
            message = f"command {command_id} was resolved by {user or 'an operator'}: {outcome}"
            await rows.event("command_resolved", message, data={"outcome": outcome})
            await rows.flush()
        record = (await self.store.history(command_id)).command
        if record.ended and record.has_locks:
            with contextlib.suppress(EngineError):  # else the sweeper does it
                await (await self._locks()).release_command(command_id)
        await self._tell(shard)
        return record

    async def outcome(self, command_id: str, *, wait_seconds: float = 0.0) -> History:
        """The command, as soon as it has ended or needs an operator; at the latest after the wait."""
        if wait_seconds > 0:
            await self._endings.wait(command_id, wait_seconds)
        return await self.store.history(command_id)

    # --- inside -----------------------------------------------------------------------------------

    async def known(self, user: str, key: str, digest: str) -> Submitted | None:
        known = await self.store.known_key(user, key)
        if known is None:
            return None
        command_id, before = known
        if before != digest:
            raise Conflict(f"the Idempotency-Key stands for another request: command {command_id}")
        return Submitted((await self.store.history(command_id)).command, again=True)

    async def settled(self, user: str, key: str, digest: str, refusal: EngineError) -> Submitted | None:
        """What the key stands for after a refusal; where the one who has the lock is not a row yet, it
        may be the same request, and a moment is given to it."""
        until = asyncio.get_running_loop().time() + SAME_REQUEST_SECONDS
        while True:
            if (known := await self.known(user, key, digest)) is not None:
                return known
            holder = refusal.holder.command if isinstance(refusal, LockRefused) else None
            if holder is None or asyncio.get_running_loop().time() >= until:
                return None
            _ended, absent = await self.store.ended_or_absent([holder])
            if not absent:
                return await self.known(user, key, digest)
            await asyncio.sleep(FIRST_LOOK_SECONDS)

    def _record(
        self, type: str, command: Command, user: str, lock_wait_seconds: float | None
    ) -> CommandRecord:
        wanted = command.locks()
        return new_record(
            type,
            command,
            shard_of=lambda id: shard_of(id, self._shards),
            user=user,
            now=self._now(),
            locks={"exclusive": sorted(wanted.exclusive), "shared": sorted(wanted.shared)},
            id=str(uuid.uuid4()),
            lock_wait_seconds=lock_wait_seconds,
        )

    async def _accept(
        self, command: Command, record: CommandRecord, key: str | None, digest: str, *, waits: bool
    ) -> CommandRecord:
        """The command as it was inserted."""
        if waits or not record.has_locks:
            await self._insert(None if waits else command, record, key, digest)
            return record
        locks = await self._locks()
        wanted = command.locks()
        try:
            token = await locks.take_for_command(
                record.id,
                exclusive=wanted.exclusive,
                shared=wanted.shared,
                user=record.user,
                reason=record.type,
            )
            accepted = with_token(record, token)
            await self._insert(command, accepted, key, digest)
        except BaseException as error:
            await self.give_back(locks, record.id, error)
            raise
        return accepted

    async def _insert(
        self,
        command: Command | None,
        record: CommandRecord,
        key: str | None,
        digest: str,
    ) -> None:
        async def insert(connection: store.Connection) -> None:
            rows = self._rows(connection, record.id, record.user, type=record.type)
            if command is not None:
                await command.validate(rows)
            await store.insert(connection, [record])
            if key is not None:
                await store.insert_key(
                    connection,
                    user=record.user,
                    key=key,
                    digest=digest,
                    command_id=record.id,
                    at=record.created_at,
                )
            what = f"{record.type} of {record.entity_kind} {record.entity_id}"
            await rows.event("command_submitted", f"{what} was asked for by {record.user or 'somebody'}")
            await rows.flush()

        await self.store.database.written(insert)

    async def give_back(self, locks: CommandLocks, command_id: str, error: BaseException) -> None:
        """Unless the row may be there after all (a commit's answer was lost): then they stay its own."""
        certain = isinstance(error, Conflict | InvalidInput)
        if not certain and not isinstance(error, Duplicate):
            try:
                _ended, absent = await self.store.ended_or_absent([command_id])
            except EngineError:
                return
            if not absent:
                return
        with contextlib.suppress(EngineError):
            await locks.release_command(command_id)

    def _rows(self, connection: store.Connection, id: str, user: str, *, type: str = "") -> EntityRows:
        about = {"command": id, "user": user} | ({"type": type} if type else {})
        return EntityRows(
            connection,
            shard_of=lambda thing: shard_of(thing, self._shards),
            engine=None,
            command=about,
            now=self._now(),
        )

    async def _tell(self, shard: ShardId) -> None:
        try:
            await self._bump(shard)
        except EngineError as error:
            LOG.warning("shard %s was not told of a command: %s", shard, error)


def with_token(record: CommandRecord, token: int | None) -> CommandRecord:
    return dataclasses.replace(record, lock_token=token)


def digest_of(type: str, arguments: Json) -> str:
    content = orjson.dumps([type, arguments], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()
