"""Writes to clustered maps: each is one transaction that also sets the root of every map it touches.

Invariant: a conditional write is refused unless the entry is the very one that was looked at. A node that
was removed and born again has the version 0 again, so a condition on the version alone would take one
for the other: such a write also checks `%births`, which each birth of a key in the map sets. Whoever
writes sees its own write when the call returns.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.coordination.operations import Check, Create, Delete, Operation, Reason, Rejected, Result, SetData
from engine.coordination.replica import Replica
from engine.coordination.session import MAX_BYTES, Session
from engine.errors import Conflict, Fenced, InvalidInput, Unavailable
from engine.plugin import Guard
from engine.state.entries import Entries, Entry, version_of
from engine.state.keys import BIRTHS, node_of

MOST_ENTRIES = 20_000
MOST_VALUE_BYTES = 64 * 1024
MOST_KEYS_AT_ONCE = 100
_TRIES = 100
_ROOT_DATA = b""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A map in one session: its root, and the replica of it."""

    session: Session
    replica: Replica
    root: str


@dataclass(frozen=True, slots=True)
class Change:
    """One key of one map to be written (`data`) or removed (None). `ephemeral`: for the session."""

    entries: Entries[Any]
    at: Attachment
    key: str
    data: bytes | None
    ephemeral: bool = False

    @property
    def path(self) -> str:
        return f"{self.at.root}/{node_of(self.key)}"

    @property
    def known(self) -> Entry | None:
        return self.entries.entry(self.key)

    @property
    def pending(self) -> bool:
        return self.at.replica.pending(node_of(self.key)) or self.at.replica.pending(BIRTHS)


async def put(
    change: Change, *, when: Callable[[Entry | None], bool] | None = None, guard: Guard | None = None
) -> int | None:
    """Write it, where `when` says yes to the entry that is there; the new version, or None where it said no.

    Without `when` whatever is there is replaced. Raises `Fenced`, `OutcomeUnknown`, `Unavailable`.
    """
    asked = False
    for _ in range(_TRIES):
        if change.pending:
            await change.at.replica.settled()
        known = change.known
        if when is not None and not when(known):
            if asked:
                return None
            await change.at.replica.fresh()  # what is known here may be late
            asked = True
            continue
        operations = _writing(change, known, conditional=when is not None)
        try:
            results = await _commit([change], operations, guard)
        except Rejected:
            await change.at.replica.fresh()
            asked = True
            continue
        await _seen([change])
        return _version_in(results, change, known)
    raise Unavailable(f"{change.key} of map {change.entries.name} changes faster than it can be written")


async def remove(
    change: Change, *, when: Callable[[Entry | None], bool] | None = None, guard: Guard | None = None
) -> bool | None:
    """Whether it was there; None where `when` said no."""
    asked = False
    for _ in range(_TRIES):
        if change.pending:
            await change.at.replica.settled()
        known = change.known
        absent = known is None
        if absent or (when is not None and not when(known)):
            if asked:
                return False if absent else None
            await change.at.replica.fresh()
            asked = True
            continue
        assert known is not None
        operations: list[Operation] = [Delete(change.path, -1 if when is None else known.node_version)]
        if when is not None:
            operations.insert(0, _no_birth(change))
        try:
            await _commit([change], operations, guard)
        except Rejected:
            await change.at.replica.fresh()
            asked = True
            continue
        await _seen([change])
        return True
    raise Unavailable(f"{change.key} of map {change.entries.name} changes faster than it can be removed")


async def update(changes: Iterable[Change], *, guard: Guard | None = None) -> None:
    """All or none, whatever is there; of several maps, if need be."""
    several = list(changes)
    if len(several) > MOST_KEYS_AT_ONCE:
        raise InvalidInput(f"{len(several)} keys in one transaction; at most {MOST_KEYS_AT_ONCE}")
    size = sum(len(change.data or b"") for change in several)
    if size > MAX_BYTES * 3 // 4:
        raise InvalidInput(f"{size} bytes of values in one transaction; at most {MAX_BYTES * 3 // 4}")
    for _ in range(_TRIES):
        operations: list[Operation] = []
        for change in several:
            known = change.known
            if change.data is not None:
                operations += _writing(change, known, conditional=False)
            elif known is not None:
                operations.append(Delete(change.path))
        if not operations:
            await asyncio.gather(*(at.replica.fresh() for at in _places(several)))
            if all(change.known is None for change in several):
                return
            continue
        try:
            await _commit(several, operations, guard)
        except Rejected:
            await asyncio.gather(*(at.replica.fresh() for at in _places(several)))
            continue
        await _seen(several)
        return
    raise Unavailable("what is to be written changes faster than it can be")


def _writing(change: Change, known: Entry | None, *, conditional: bool) -> list[Operation]:
    """Put `change` in the place of `known`."""
    assert change.data is not None
    if known is None and len(change.entries.known) >= MOST_ENTRIES:
        raise InvalidInput(
            f"map {change.entries.name} is full: it has {MOST_ENTRIES} entries, and more are not kept in"
            " ZooKeeper; state of this size belongs into the database"
        )
    birth = Create(change.path, change.data, ephemeral=change.ephemeral)
    born = SetData(f"{change.at.root}/{BIRTHS}", b"")
    if known is None:
        return [birth, born]
    owner = change.at.session.identity.session_id if change.ephemeral else 0
    if known.session != owner:  # it is to vanish otherwise than it does now
        return [_no_birth(change), Delete(change.path, known.node_version), birth, born]
    if conditional or change.ephemeral:
        return [_no_birth(change), SetData(change.path, change.data, known.node_version)]
    return [SetData(change.path, change.data)]


def _no_birth(change: Change) -> Check:
    return Check(f"{change.at.root}/{BIRTHS}", change.entries.births)


def _places(changes: Iterable[Change]) -> list[Attachment]:
    """The attachments of these, each once, in order."""
    return list({change.at.root: change.at for change in changes}.values())


async def _commit(
    changes: list[Change], operations: list[Operation], guard: Guard | None
) -> Mapping[str, Result]:
    """The results by path. Raises `Rejected` where something changed meanwhile, `Fenced`."""
    places = _places(changes)
    roots: list[Operation] = [SetData(at.root, _ROOT_DATA) for at in places]
    guards: list[Operation] = [Check(guard.node, guard.version)] if guard is not None else []
    try:
        results = await places[0].session.commit(*guards, *operations, *roots)
    except Rejected as refused:
        if guards and refused.index == 0:
            raise Fenced(f"a later leader has been here: {refused}") from refused
        if refused.reason is Reason.OTHER:
            raise Conflict(str(refused)) from refused
        raise
    return {result.path: result for result in results}


async def _seen(changes: list[Change]) -> None:
    """The server told of the write before it answered: what is left is to read it."""
    for at in _places(changes):
        if any(change.pending for change in changes):
            with contextlib.suppress(Unavailable):  # it is written; the gap is closed by difference
                await at.replica.settled()


def _version_in(results: Mapping[str, Result], change: Change, known: Entry | None) -> int:
    result = results[change.path]
    if result.stat is not None:
        return version_of(result.stat.czxid, result.stat.version)
    return version_of(result.zxid, 0)
