"""The transactions of the hold protocol, as lists of operations.

Pure. Taking creates the hold and all its keys, or nothing. Releasing deletes the hold and all its keys,
or nothing, so a former holder's release, whenever it arrives, touches nothing of a later one. An
exclusive node has version 0 for its life; a shared key is a container of version 1 with a child for
each holder, and is deleted only at version 1 and only when empty.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from engine.coordination.operations import Check, Create, Delete, Operation, SetData
from engine.coordination.paths import Paths
from engine.locks.keys import Key, Mode

SHARED_VERSION = 1


class Found(enum.Enum):
    """What a key's node is believed to be like, for a taking."""

    ABSENT = "absent"
    EMPTY = "a container that a crash left behind"
    SHARED = "a container in use"


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
    found: Mapping[Key, Found],
    *,
    ephemeral: bool,
) -> list[Step]:
    """Everything that makes `nonce` the holder, given what its keys were found to be (absent, if unsaid)."""
    steps = [Step(Create(paths.hold(nonce), data, ephemeral))]
    for key, mode in modes.items():
        lock, state = paths.lock(key), found.get(key, Found.ABSENT)
        operations: list[Operation] = []
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
    others: Collection[Key] = (),
    missing: Collection[Key] = (),
) -> list[Step]:
    """Everything that ends the hold. `others` are shared keys that others hold besides; `missing` those
    whose node somebody's hand has removed."""
    steps = [Step(Delete(paths.hold(nonce)))]
    for key, mode in modes.items():
        lock = paths.lock(key)
        if key in missing:
            continue
        if mode is Mode.EXCLUSIVE:
            steps.append(Step(Delete(lock, 0), key))
            continue
        steps.append(Step(Delete(f"{lock}/{nonce}"), key))
        if key not in others:
            steps.append(Step(Delete(lock, SHARED_VERSION), key))
    return steps


def abandoning(paths: Paths, key: Key) -> Delete:
    """Remove a shared container, if nobody has it any more."""
    return Delete(paths.lock(key), SHARED_VERSION)
