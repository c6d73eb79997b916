"""The transactions of the hold protocol, as lists of operations.

Pure. Taking creates the hold and all its keys, or nothing. Releasing deletes the hold and all its keys,
or nothing, so a former holder's release, whenever it arrives, touches nothing of a later one. An
exclusive node has version 0 for its life; a shared key is a container of version 1 with a child for
each holder, and is deleted only at version 1 and only when empty.

Handing on releases, and gives one key to who is first in its line: his hold, made at version 0 when he
queued up, is set, which happens once to it, whether by him or by who hands on. The releaser can make
no ephemeral node of his, so the key is then a container of version 2 with a child named after the
hold: whoever finds that hold gone may remove exactly this child, and the container only when empty.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from engine.coordination.operations import Check, Create, Delete, Operation, SetData
from engine.coordination.paths import Paths
from engine.locks.keys import Key, Mode

SHARED_VERSION = 1
HANDED_VERSION = 2

HELD_AT_ONCE = 0
HELD_AFTER_WAITING = 1
"""Versions of a hold that is held. One that was made to wait with has version 0 until it is had."""


class Found(enum.Enum):
    """What a key's node is believed to be like, for a taking."""

    ABSENT = "absent"
    EMPTY = "a container that a crash left behind"
    SHARED = "a container in use"


@dataclass(frozen=True, slots=True)
class Orphaned:
    """A key that was handed to `nonce`, whose session has ended since. `emptied`: the child went with it."""

    nonce: str
    emptied: bool


@dataclass(frozen=True, slots=True)
class Heir:
    """Who is first in the line for `key`: his hold, and its data once it is held."""

    key: Key
    nonce: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Step:
    """One operation, and the key that it is about; None for the hold and what else there is."""

    operation: Operation
    key: Key | None = None


def taking(
    paths: Paths,
    nonce: str,
    data: bytes,
    modes: Mapping[Key, Mode],
    found: Mapping[Key, Found | Orphaned],
    *,
    ephemeral: bool,
    waited: bool = False,
) -> list[Step]:
    """Everything that makes `nonce` the holder, given what its keys were found to be (absent, if unsaid).
    `waited`: the hold is there, made to wait with."""
    hold = paths.hold(nonce)
    steps = [Step(SetData(hold, data, 0) if waited else Create(hold, data, ephemeral))]
    for key, mode in modes.items():
        lock, state = paths.lock(key), found.get(key, Found.ABSENT)
        operations: list[Operation] = []
        if isinstance(state, Orphaned):
            if not state.emptied:
                operations.append(Delete(f"{lock}/{state.nonce}"))
            operations.append(Delete(lock, HANDED_VERSION))
            state = Found.ABSENT
        if mode is Mode.EXCLUSIVE:
            if state is not Found.ABSENT:
                operations.append(Delete(lock, SHARED_VERSION))
            operations.append(Create(lock, nonce.encode(), ephemeral))
        else:
            if state is Found.ABSENT:
                operations += [Create(lock, container=True), SetData(lock, b"", 0)]
            else:
                operations.append(Check(lock, SHARED_VERSION))
            operations.append(Create(f"{lock}/{nonce}", b"", ephemeral))
        steps += [Step(operation, key) for operation in operations]
    return steps


def releasing(
    paths: Paths,
    nonce: str,
    modes: Mapping[Key, Mode],
    *,
    version: int = HELD_AT_ONCE,
    others: Collection[Key] = (),
    missing: Collection[Key] = (),
    handed: Collection[Key] = (),
) -> list[Step]:
    """Everything that ends the hold, which has `version`: one that only waits is not ended so. `others`
    are shared keys that others hold besides; `missing` those whose node somebody's hand has removed;
    `handed` those that were handed to it."""
    steps = [Step(Delete(paths.hold(nonce), version))]
    for key, mode in modes.items():
        lock = paths.lock(key)
        if key in missing:
            continue
        if key in handed:
            steps += [Step(Delete(f"{lock}/{nonce}"), key), Step(Delete(lock, HANDED_VERSION), key)]
            continue
        if mode is Mode.EXCLUSIVE:
            steps.append(Step(Delete(lock, 0), key))
            continue
        steps.append(Step(Delete(f"{lock}/{nonce}"), key))
        if key not in others:
            steps.append(Step(Delete(lock, SHARED_VERSION), key))
    return steps


def handing(paths: Paths, heir: Heir) -> list[Operation]:
    """What follows a releasing that frees the heir's key, and makes it his. He may have left, or died:
    then it fails, and with it the releasing."""
    lock = paths.lock(heir.key)
    return [
        Create(lock, container=True),
        SetData(lock, b"", 0),
        SetData(lock, heir.nonce.encode(), 1),
        Create(f"{lock}/{heir.nonce}"),
        SetData(paths.hold(heir.nonce), heir.data, 0),
    ]


def adopting(paths: Paths, nonce: str, key: Key) -> list[Operation]:
    """Have what was handed to `nonce` end with its session, as all that it has made itself."""
    child = f"{paths.lock(key)}/{nonce}"
    return [Check(paths.hold(nonce), HELD_AFTER_WAITING), Delete(child), Create(child, ephemeral=True)]


def abandoning(paths: Paths, key: Key) -> Delete:
    """Remove a shared container, if nobody has it any more."""
    return Delete(paths.lock(key), SHARED_VERSION)
