"""Many rows as the one parameter of one statement: a statement for a hundred rows costs as a text, a
round trip and a plan what it costs for one.

The rows travel as a JSON array of objects, which both databases can read as a table; `given` is that
table. A statement over it has to be built once for each database (`for_both`). Times are to be passed
through `moment`: as texts they are read alike by both, for connections live in UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa

T = TypeVar("T")

ROWS = sa.bindparam("rows", type_=sa.JSON)
DIALECTS = ("sqlite", "postgresql")


def for_both(build: Callable[[str], T]) -> Mapping[str, T]:
    """What `build` makes for each dialect, by its name."""
    return {dialect: build(dialect) for dialect in DIALECTS}


def given(dialect: str, columns: Iterable[sa.ColumnClause[Any]]) -> sa.FromClause:
    """The rows of the parameter `rows` as a table `given` with these names and types."""
    wanted = [sa.column(column.name, column.type) for column in columns]
    if dialect == "postgresql":
        recordset = sa.func.json_to_recordset(ROWS).table_valued(*wanted, name="given")
        return recordset.render_derived(with_types=True)
    each = sa.func.json_each(ROWS).table_valued("value", name="each")
    fields = [
        sa.type_coerce(sa.func.json_extract(each.c.value, f"$.{one.name}"), one.type).label(one.name)
        for one in wanted
    ]
    return sa.select(*fields).select_from(each).subquery("given")


def among(dialect: str, column: sa.ColumnElement[Any], parameter: str = "rows") -> sa.ColumnElement[bool]:
    """Whether the column's value is one of the array in the parameter; one statement, however many there
    are."""
    if dialect == "postgresql":
        return column == sa.any_(sa.bindparam(parameter, type_=sa.ARRAY(column.type)))
    values = sa.func.json_each(sa.bindparam(parameter, type_=sa.JSON)).table_valued("value")
    return column.in_(sa.select(values.c.value))


def moment(value: datetime | None) -> str | None:
    """As both databases read it, and as SQLAlchemy has SQLite keep it."""
    return None if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
