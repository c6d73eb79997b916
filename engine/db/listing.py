"""Lists of entities that have an `id` and a `name`: filtered, sorted, page by page; and one by either.

A page goes on after the entity that a marker names, in the order of any column, ties by id: entities
that come or go in between shift nothing. Used by the stores of hosts and of VMs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import InvalidInput, NotFound

MAX_PAGE = 1000


class Listing:
    """Of one table; `keys` are the columns that it may be sorted by, `what` is what errors call a row."""

    def __init__(self, table: sa.Table, what: str, keys: Sequence[str]) -> None:
        self.keys = keys
        self._table = table
        self._what = what

    async def page(
        self,
        connection: AsyncConnection,
        *,
        limit: int,
        marker: str | None = None,
        sort: str = "name",
        name: str | None = None,
        where: Sequence[sa.ColumnElement[bool]] = (),
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Up to `limit` rows after the row whose id is `marker`, in order of `sort` (`-name`: descending),
        and the marker of the next page. `name` is a pattern: `*` is anything, `?` one character."""
        if not 1 <= limit <= MAX_PAGE:
            wrong = f"1 to {MAX_PAGE}"
            raise InvalidInput(f"limit {limit} is out of range: {wrong}", fields={"limit": wrong})
        column, descending = self._sorting(sort)
        id = self._table.c.id
        query = sa.select(self._table).where(*where).limit(limit + 1)
        query = query.order_by(*(key.desc() if descending else key for key in (column, id)))
        if name is not None:
            query = query.where(self._table.c.name.ilike(_like(name), escape="\\"))
        if marker is not None:
            query = query.where(await self._beyond(connection, column, marker, descending))
        rows = [dict(row) for row in (await connection.execute(query)).mappings()]
        return rows[:limit], rows[limit - 1]["id"] if len(rows) > limit else None

    async def called(
        self, connection: AsyncConnection, name: str, *, for_update: bool = False
    ) -> Mapping[str, Any]:
        """The row with this id, else the one with this name. Raises `NotFound`.

        `for_update`: nobody else changes it, or gets it so, until this transaction ends.
        """
        table = self._table
        query = (
            sa.select(table)
            .where((table.c.id == name) | (table.c.name == name))
            .order_by(sa.case((table.c.id == name, 0), else_=1))
            .limit(1)
        )
        if for_update:
            query = query.with_for_update()
        # PostgreSQL takes no NUL in a text.
        row = None if "\0" in name else (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise NotFound(f"no {self._what} {name[:255]!r}")
        return dict(row)

    def _sorting(self, sort: str) -> tuple[sa.Column[Any], bool]:
        key = sort.removeprefix("-")
        if key not in self.keys:
            wrong = f"one of {', '.join(self.keys)}, with - in front for descending"
            raise InvalidInput(f"cannot sort by {sort[:64]!r}; allowed: {wrong}", fields={"sort": wrong})
        return self._table.columns[key], sort.startswith("-")

    async def _beyond(
        self, connection: AsyncConnection, column: sa.Column[Any], marker: str, descending: bool
    ) -> sa.ColumnElement[bool]:
        id = self._table.c.id
        row = (await connection.execute(sa.select(column, id).where(id == marker))).one_or_none()
        if row is None:
            what = self._what
            raise InvalidInput(
                f"no {what} has the marker {marker[:64]!r}", fields={"marker": f"the id of a {what}"}
            )
        here = sa.tuple_(column, id)
        there = sa.tuple_(sa.literal(row[0], column.type), sa.literal(row[1]))
        return here < there if descending else here > there


def _like(pattern: str) -> str:
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%").replace("?", "_")
