"""SQL errors, translated where they are met: nothing above `engine.db` and the stores sees a driver's.

`Unavailable` is what a retry may cure (locked, unreachable, full, pool exhausted), `SchemaMismatch`
what an upgrade cures, `Duplicate` and `Violation` what only the caller can cure. A mistake of our
own (bad SQL, a wrong type) is not translated: it stays loud.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator

import sqlalchemy as sa

from engine.db.tables import metadata
from engine.errors import Conflict, Unavailable

_SQLITE_UNIQUE = re.compile(r"UNIQUE constraint failed: (.+)")
_OTHER_SCHEMA = re.compile(
    r"no such (?:table|column)|has no column named|already exists|UndefinedTable|UndefinedColumn"
)


class SchemaMismatch(Unavailable):
    """The database's schema is missing, older or newer than this code's; the message says the remedy."""


class Violation(Conflict):
    """A constraint of the schema forbids the write. Nothing was changed."""


class Duplicate(Violation):
    """A row with the same values exists. `fields` are the columns that have to be unique together."""

    def __init__(self, table: str, fields: tuple[str, ...]) -> None:
        super().__init__(f"another {table} has the same {' and '.join(fields)}")
        self.table = table
        self.fields = fields


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise the engine's errors in place of SQLAlchemy's."""
    try:
        yield
    except sa.exc.IntegrityError as error:
        raise _conflict(error) from error
    except (sa.exc.OperationalError, sa.exc.ProgrammingError) as error:
        if _OTHER_SCHEMA.search(str(error.orig)):
            raise SchemaMismatch(f"the database's schema is not as expected ({_reason(error)})") from error
        if _own_mistake(error):
            raise
        raise Unavailable(f"the database did not answer: {_reason(error)}") from error
    except sa.exc.DBAPIError as error:
        # A file that is no database comes as the bare class; a broken connection as any of them.
        if error.connection_invalidated or type(error) is sa.exc.DatabaseError:
            raise Unavailable(f"the database did not answer: {_reason(error)}") from error
        raise
    except sa.exc.TimeoutError as error:
        raise Unavailable("all database connections are in use") from error


def _own_mistake(error: sa.exc.DBAPIError) -> bool:
    """SQLite calls bad SQL an operational error; its code tells it from a lock or a full disk."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return isinstance(error, sa.exc.ProgrammingError) or code == sqlite3.SQLITE_ERROR


def _conflict(error: sa.exc.IntegrityError) -> Violation:
    reason = _reason(error)
    if found := _SQLITE_UNIQUE.search(reason):
        columns = [column.split(".") for column in found[1].split(", ")]
        return Duplicate(columns[0][0], tuple(column for _table, column in columns))
    name = _constraint_name(error)
    for table in metadata.tables.values():
        for constraint in table.constraints:
            if name is not None and constraint.name == name and isinstance(constraint, sa.UniqueConstraint):
                return Duplicate(table.name, tuple(column.name for column in constraint.columns))
    return Violation(f"the database refuses the write: {reason}")


def _constraint_name(error: sa.exc.IntegrityError) -> str | None:
    """PostgreSQL drivers name the constraint: psycopg in `diag`, asyncpg on the error itself."""
    for source in (getattr(error.orig, "diag", None), error.orig, getattr(error.orig, "__cause__", None)):
        if name := getattr(source, "constraint_name", None):
            return str(name)
    return None


def _reason(error: sa.exc.DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
