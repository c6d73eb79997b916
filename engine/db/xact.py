"""In which transaction a row was written, as a number by which rows can be read without missing one.

Ids are given out before transactions commit, so a row with a smaller id can become visible after one
with a greater one, and whoever reads on from the greatest id seen misses it. On PostgreSQL a row
therefore stores its transaction's number; rows below the oldest transaction that still runs
(`AllBefore`; of any database of the server) are complete, and are read in the order (transaction,
id). SQLite has one writer at a time: there the number is always 0, and ids serve.
Source: https://www.postgresql.org/docs/15/functions-info.html (pg_current_xact_id, pg_snapshot_xmin).
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles


class CurrentXact(sa.sql.functions.FunctionElement[int]):
    """The number of this transaction; a column's default."""

    type = sa.BigInteger()
    inherit_cache = True


class AllBefore(sa.sql.functions.FunctionElement[int]):
    """The first transaction of which this snapshot may not show everything yet."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(CurrentXact)
def _none(_element: Any, _compiler: Any, **_: Any) -> str:
    return "0"


@compiles(AllBefore)
def _whatever(_element: Any, _compiler: Any, **_: Any) -> str:
    return "1"


@compiles(CurrentXact, "postgresql")
def _current(_element: Any, _compiler: Any, **_: Any) -> str:
    return "pg_current_xact_id()::text::bigint"


@compiles(AllBefore, "postgresql")
def _xmin(_element: Any, _compiler: Any, **_: Any) -> str:
    return "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
