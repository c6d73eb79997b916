"""Clustered maps: small state that all engines share, read without I/O.

A map is replicated to every engine that opens it: reading is reading a dict, writing is one versioned
transaction in ZooKeeper, and listeners are told each key's changes in order. What changes at every poll
of a host has no place here; it belongs to the shard's owner and the database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from engine.plugin.base import Guard

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Versioned(Generic[V]):
    """A value, and the version that a conditional write names. Versions grow with each write of a key,
    also when it was removed in between: one version never stands for two values."""

    value: V
    version: int


@dataclass(frozen=True, slots=True)
class Changed(Generic[V]):
    """A key's change: `old` is None where it is new, `new` is None where it was removed.

    Changes that come faster than they are read are merged: the latest value counts, not each between.
    """

    key: str
    old: Versioned[V] | None
    new: Versioned[V] | None


class ClusteredMap(Protocol[V]):
    """A replicated map; a `Mapping` of the values as this engine has seen them. Keys are strings.

    Reading does no I/O and may be a moment late; what was written through this engine is seen when the
    call returns. Writing raises `Conflict`, `InvalidInput` (a bad key, too large, not of the map's type),
    `Unavailable` (not done), `OutcomeUnknown` (the connection broke: perhaps done) and, where a `guard` of
    a leadership is given, `Fenced` when a later leader has been there.
    """

    def __getitem__(self, key: str, /) -> V: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...
    def __contains__(self, key: object, /) -> bool: ...
    def get(self, key: str, /, default: V | None = None) -> V | None: ...

    def versioned(self, key: str) -> Versioned[V] | None:
        """With the version to name in `put`; None where there is none."""

    async def put(
        self, key: str, value: V, *, if_version: int | None = None, guard: Guard | None = None
    ) -> int:
        """Write it; the new version. Raises `Conflict` when `if_version` is not the present one."""

    async def put_if_absent(self, key: str, value: V, *, guard: Guard | None = None) -> bool:
        """Whether it was written; False where the key is there already."""

    async def replace(self, key: str, value: V, *, guard: Guard | None = None) -> bool:
        """Whether it was written; False where the key is not there."""

    async def remove(self, key: str, *, if_version: int | None = None, guard: Guard | None = None) -> bool:
        """Whether it was there. Raises `Conflict` as `put` does."""

    async def compute(
        self, key: str, fn: Callable[[V | None], V | None], *, guard: Guard | None = None
    ) -> V | None:
        """Write what `fn` makes of the present value (None: absent, or to be removed), again and again
        until nobody wrote in between; what was written. `fn` is quick and pure."""

    async def update_many(self, values: Mapping[str, V | None], *, guard: Guard | None = None) -> None:
        """All or none, in one transaction of up to 100 keys; None removes."""

    def changes(self) -> AsyncIterator[Changed[V]]:
        """Each key's changes in order, from this call on; also those that happened while ZooKeeper was
        away. What changes faster than it is read is merged: `old` is always what came before."""

    async def fresh(self) -> None:
        """Return when all that was written anywhere before this call can be read here."""


class ClusteredMaps(Protocol):
    """Opens maps. One name is one map in the whole cluster."""

    def open(
        self, name: str, value: type[V], *, of_session: bool = False
    ) -> AbstractAsyncContextManager[ClusteredMap[V]]:
        """The map `name` of frozen dataclasses `value`, its replica complete. Several may open one.

        `of_session`: what is written through this one vanishes with this engine's session. Raises
        `Unavailable`.
        """

    async def update_many(
        self, changes: Iterable[tuple[ClusteredMap[Any], str, Any]], *, guard: Guard | None = None
    ) -> None:
        """As `ClusteredMap.update_many`, over several open maps: (map, key, value or None)."""
