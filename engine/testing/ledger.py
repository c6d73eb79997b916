"""In-memory stand-ins for what a singleton works with: entities, and the desk that takes commands.

They keep the promises of `engine.plugin.Ledger` and `CommandDesk` that a plugin's logic rests on: a
body that fails changes nothing, an ended or overtaken leadership writes nothing, a key is accepted
once. Rows are plain mappings; a test fills in the columns that its plugin reads.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from engine.errors import Conflict, EngineError, Fenced, NotFound
from engine.plugin import ChildOutcome, EntityReader, HostId, Json, Leadership, Rows, ShardId

Tables = dict[str, dict[str, dict[str, Any]]]


class MemoryRows:
    """`EntityReader` and `Rows` over dictionaries: kind, id, row."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self.events: list[tuple[str, str, Json]] = []
        self.told: list[str] = []

    async def get(self, kind: str, id: str, *, for_update: bool = False) -> Mapping[str, Any]:
        try:
            return dict(self._tables[kind][id])
        except KeyError:
            raise NotFound(f"there is no {kind.replace('_', ' ')} {id}") from None

    async def find(
        self, kind: str, *, where: Mapping[str, Any] | None = None, columns: Collection[str] | None = None
    ) -> list[Mapping[str, Any]]:
        rows = sorted(self._tables.get(kind, {}).values(), key=lambda row: str(row["id"]))
        return [
            dict(row) if columns is None else {name: row[name] for name in columns}
            for row in rows
            if _is(row, where)
        ]

    async def sums(
        self,
        kind: str,
        columns: Collection[str],
        *,
        by: Collection[str],
        where: Mapping[str, Any] | None = None,
        but: str | None = None,
    ) -> list[Mapping[str, Any]]:
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        for row in await self.find(kind, where=where):
            if row["id"] != but:
                alike = {name: row[name] for name in by}
                total = found.setdefault(tuple(alike.values()), alike | dict.fromkeys(columns, 0))
                for name in columns:
                    total[name] += row[name]
        return list(found.values())

    async def insert(self, kind: str, values: Mapping[str, Any]) -> None:
        if values["id"] in self._tables.setdefault(kind, {}):
            raise Conflict(f"there is a {kind} {values['id']} already")
        self._tables[kind][values["id"]] = dict(values)

    async def update(
        self, kind: str, id: str, values: Mapping[str, Any], *, where: Mapping[str, Any] | None = None
    ) -> bool:
        row = self._tables.get(kind, {}).get(id)
        if row is None or not _is(row, where):
            return False
        row.update(values)
        return True

    async def delete(self, kind: str, id: str) -> bool:
        return self._tables.get(kind, {}).pop(id, None) is not None

    async def event(
        self, kind: str, message: str, *, host_id: HostId | None = None, data: Json | None = None
    ) -> None:
        self.events.append((kind, message, data or {}))

    async def fenced(self, host_id: HostId) -> None:
        self.told.append(host_id)

    def shard_of(self, id: str) -> ShardId:
        return ShardId(0)

    def tell(self, id: str) -> None:
        self.told.append(id)


class MemoryLedger:
    """`Ledger` over `tables`; `events` are those of transactions that were committed."""

    def __init__(self, tables: Tables | None = None) -> None:
        self.tables: Tables = tables if tables is not None else {}
        self.events: list[tuple[str, str, Json]] = []
        self.writes = 0
        self._token = 0

    def put(self, kind: str, **row: Any) -> None:
        self.tables.setdefault(kind, {})[row["id"]] = row

    @property
    def reader(self) -> EntityReader:
        return MemoryRows(self.tables)

    @asynccontextmanager
    async def writing(self, leadership: Leadership) -> AsyncIterator[Rows]:
        leadership.check()
        if leadership.token < self._token:
            raise Fenced(f"a later leader (token {self._token}) was here; ours is {leadership.token}")
        self._token = leadership.token
        rows = MemoryRows(copy.deepcopy(self.tables))
        yield rows
        leadership.check()
        self.tables.clear()
        self.tables.update(rows._tables)
        self.events += rows.events
        self.writes += 1


@dataclass(slots=True)
class MemoryDesk:
    """`CommandDesk` that remembers what it was asked for. `refusals`: what to raise, by the id of the
    entity or by the command; `outcomes`: how commands ended, by their ids; `ended`: when those ended that
    may be forgotten."""

    asked: list[tuple[str, Json]] = field(default_factory=list)
    refusals: dict[str, EngineError] = field(default_factory=dict)
    outcomes: dict[str, ChildOutcome] = field(default_factory=dict)
    ended: list[datetime] = field(default_factory=list)
    _keys: dict[str, str] = field(default_factory=dict)

    async def submit(
        self,
        command: str,
        arguments: Json,
        *,
        key: str | None = None,
        lock_wait_seconds: float | None = None,
    ) -> str:
        for about in (command, *map(str, arguments.values())):
            if about in self.refusals:
                raise self.refusals[about]
        if key is not None and key in self._keys:
            return self._keys[key]
        self.asked.append((command, dict(arguments)))
        id = f"command-{len(self.asked)}"
        if key is not None:
            self._keys[key] = id
        return id

    async def asked_for(self, key: str) -> str | None:
        return self._keys.get(key)

    async def outcome(self, command_id: str, *, wait_seconds: float = 0.0) -> ChildOutcome | None:
        return self.outcomes.get(command_id)

    async def prune(self, *, ended_before: datetime, limit: int, leadership: Leadership) -> int:
        leadership.check()
        old = sorted(at for at in self.ended if at < ended_before)[:limit]
        for at in old:
            self.ended.remove(at)
        return len(old)


def _is(row: Mapping[str, Any], where: Mapping[str, Any] | None) -> bool:
    return all(
        row[name] in value if isinstance(value, list | tuple | set | frozenset) else row[name] == value
        for name, value in (where or {}).items()
    )
