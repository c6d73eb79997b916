"""What is asked of the locks: keys, each `<type>:<id>`, wanted exclusively or shared, all or none.

Pure. A `Wanted` that exists is valid: whatever is wrong with the keys is said here, in words, before
ZooKeeper is asked.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Self

from engine.errors import InvalidInput

Key = str
"""`<type>:<id>`, as in `vm:8f14e45f`."""

MAX_KEY = 200
"""Characters; the name of a node, which people read in lists."""
MAX_KEYS = 100
"""Of one acquisition: a transaction carries 500 operations, and a shared key takes up to three."""


class Mode(enum.StrEnum):
    EXCLUSIVE = "exclusive"
    SHARED = "shared"


class Forever(enum.Enum):
    FOREVER = "forever"


FOREVER: Final = Forever.FOREVER
"""As `wait`: until the lock is had, however long that takes."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Keys and the mode of each, in the order of the keys."""

    modes: Mapping[Key, Mode]

    @classmethod
    def of(cls, exclusive: Iterable[Key], shared: Iterable[Key]) -> Self:
        """Raises `InvalidInput` where a key is malformed or in both sets, or where there is none."""
        wanted = {**_checked("exclusive", exclusive, Mode.EXCLUSIVE)}
        for key, mode in _checked("shared", shared, Mode.SHARED).items():
            if key in wanted:
                raise InvalidInput(
                    f"the key {key} is asked for exclusively and shared at once; name it in one set",
                    fields={"shared": f"{key} is in the exclusive set too"},
                )
            wanted[key] = mode
        if not wanted:
            raise InvalidInput(
                "no key to lock: both sets are empty", fields={"exclusive": "must not be empty"}
            )
        if len(wanted) > MAX_KEYS:
            raise InvalidInput(f"{len(wanted)} keys to lock at once; at most {MAX_KEYS}")
        return cls(MappingProxyType(dict(sorted(wanted.items()))))


def _checked(name: str, keys: Iterable[Key], mode: Mode) -> dict[Key, Mode]:
    if isinstance(keys, str):
        raise InvalidInput(f"{name}: {keys!r} is one key; give a set of keys", fields={name: "must be a set"})
    return {checked_key(key): mode for key in keys}


def checked_key(key: str) -> Key:
    """`key` if it is one. Raises `InvalidInput` that says what is wrong with it."""
    wrong = _fault(key)
    if wrong:
        shown = key if len(key) <= 60 else f"{key[:60]}..."
        raise InvalidInput(f"{shown!r} cannot be locked: {wrong}", fields={"key": wrong})
    return key


def _fault(key: str) -> str:
    if len(key) > MAX_KEY:
        return f"a key has at most {MAX_KEY} characters, this one {len(key)}"
    if "/" in key:
        return "a key may not hold '/'"
    if not key.isprintable():
        return "a key may hold only printable characters"
    kind, colon, identity = key.partition(":")
    if not (kind and colon and identity):
        return "a key is <type>:<id>, as in vm:42"
    return ""
