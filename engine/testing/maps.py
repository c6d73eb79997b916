"""Clustered maps without a cluster, for tests of what uses them: the same entries, no ZooKeeper.

Whoever opens the same map of one `MemoryMaps` shares it, as the engines of a cluster do.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast

import msgspec

from engine.coordination.operations import Node, Stat
from engine.errors import Conflict
from engine.plugin import ClusteredMap, Guard
from engine.state.entries import Changes, Entries
from engine.state.keys import checked_map, node_of

V = TypeVar("V")


class MemoryMap(Mapping[str, V], Generic[V]):
    """See `engine.plugin.ClusteredMap`."""

    def __init__(self, name: str, kind: type[V]) -> None:
        self.entries: Entries[V] = Entries(name, kind)
        self._zxid = 0

    def __getitem__(self, key: str) -> V:
        return self.entries.values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self.entries.values))

    def __len__(self) -> int:
        return len(self.entries.values)

    def get(self, key: str, /, default: V | None = None) -> V | None:  # type: ignore[override]
        return self.entries.values.get(key, default)

    def versioned(self, key: str) -> Any:
        return self.entries.versioned(key)

    async def put(
        self, key: str, value: V, *, if_version: int | None = None, guard: Guard | None = None
    ) -> int:
        self._require(key, if_version)
        return self._set(key, value)

    async def put_if_absent(self, key: str, value: V, *, guard: Guard | None = None) -> bool:
        return key not in self and bool(self._set(key, value))

    async def replace(self, key: str, value: V, *, guard: Guard | None = None) -> bool:
        return key in self and bool(self._set(key, value))

    async def remove(self, key: str, *, if_version: int | None = None, guard: Guard | None = None) -> bool:
        self._require(key, if_version)
        there = key in self
        self.entries.absorb([node_of(key)], {})
        return there

    async def compute(
        self, key: str, fn: Callable[[V | None], V | None], *, guard: Guard | None = None
    ) -> V | None:
        value = fn(self.get(key))
        await self.update_many({key: value})
        return value

    async def update_many(self, values: Mapping[str, V | None], *, guard: Guard | None = None) -> None:
        for key, value in values.items():
            if value is None:
                self.entries.absorb([node_of(key)], {})
            else:
                self._set(key, value)

    def changes(self) -> Changes[V]:
        listening = Changes(self.entries)
        self.entries.listeners.add(listening)
        return listening

    async def fresh(self) -> None:
        return None

    def _require(self, key: str, version: int | None) -> None:
        known = self.entries.versioned(key)
        if version is not None and (known is None or known.version != version):
            raise Conflict(f"{key} has not version {version}: {known}")

    def _set(self, key: str, value: V) -> int:
        self._zxid += 1
        node = Node(msgspec.json.encode(value), Stat(0, self._zxid, self._zxid, self._zxid, 0, 0, 0, 0))
        self.entries.absorb([node_of(key)], {node_of(key): node})
        return cast(int, self.versioned(key).version)


class MemoryMaps:
    """See `engine.plugin.ClusteredMaps`. `opened` has every map that was ever opened, by name."""

    def __init__(self) -> None:
        self.opened: dict[str, MemoryMap[Any]] = {}

    @contextlib.asynccontextmanager
    async def open(
        self, name: str, value: type[V], *, of_session: bool = False
    ) -> AsyncIterator[ClusteredMap[V]]:
        found = self.opened.setdefault(checked_map(name), MemoryMap(name, value))
        yield cast(ClusteredMap[V], found)

    async def update_many(
        self, changes: Iterable[tuple[ClusteredMap[Any], str, Any]], *, guard: Guard | None = None
    ) -> None:
        for opened, key, value in changes:
            await opened.update_many({key: value})
