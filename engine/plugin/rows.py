"""Entities (hosts, VMs, clusters of hosts) as a plugin reads and writes them, in guarded transactions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from engine.plugin.base import HostId, ShardId

Json = Mapping[str, Any]
"""What a step's result is: an object that JSON can carry. Keep it small; later steps read it."""


@dataclass(frozen=True, slots=True)
class Entity:
    """What a command is about: the kind is a table's name ('host', 'vm', 'host_cluster')."""

    kind: str
    id: str


class EntityReader(Protocol):
    """Entities as they were a moment ago: nothing holds them still. Decide again under a guard."""

    async def get(self, kind: str, id: str) -> Mapping[str, Any]:
        """The row. Raises `NotFound`."""

    async def find(
        self, kind: str, *, where: Mapping[str, Any] | None = None, columns: Collection[str] | None = None
    ) -> list[Mapping[str, Any]]:
        """All rows whose columns have these values (a list, tuple or set: any of them), by id.

        `columns`: only these, where many rows are read and little of each is wanted.
        """

    async def sums(
        self,
        kind: str,
        columns: Collection[str],
        *,
        by: Collection[str],
        where: Mapping[str, Any] | None = None,
        but: str | None = None,
    ) -> list[Mapping[str, Any]]:
        """The sums of `columns` over the rows that are alike in `by`, which come with them. `but`: the id
        of a row that is left out."""


class Rows(EntityReader, Protocol):
    """Entities inside one open transaction that is already guarded: by the shard's epoch, by the
    command's row and its lock. It commits when the step's method returns, together with the step.

    Rows are plain mappings, column to value, of the tables marked as entities in `engine.db.tables`.
    No I/O but this may be done while one is open.
    """

    async def get(self, kind: str, id: str, *, for_update: bool = False) -> Mapping[str, Any]:
        """The row. Raises `NotFound`.

        `for_update`: nobody else changes it, or gets it so, until this transaction ends; what is read after
        it is what the last one to have it so left behind.
        """

    async def insert(self, kind: str, values: Mapping[str, Any]) -> None:
        """Raises `Conflict` where a constraint forbids it."""

    async def update(
        self, kind: str, id: str, values: Mapping[str, Any], *, where: Mapping[str, Any] | None = None
    ) -> bool:
        """Change the row if it still is as `where` says (as in `find`); whether it was."""

    async def delete(self, kind: str, id: str) -> bool: ...

    async def event(
        self, kind: str, message: str, *, host_id: HostId | None = None, data: Json | None = None
    ) -> None:
        """Tell of it; command and engine are added."""

    async def fenced(self, host_id: HostId) -> None:
        """That host was off just now, so whatever was sent there has come to its end: commands that wait
        for it learn so (`Step.fenced`)."""

    def shard_of(self, id: str) -> ShardId:
        """The shard to which the entity with this id belongs."""

    def tell(self, id: str) -> None:
        """After the commit, have the owner of this entity's shard look at its rows at once."""
