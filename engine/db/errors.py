"""SQL errors, translated where they are met: nothing above `engine.db` and the stores sees a driver's.

`Unavailable` is what a retry may cure (unreachable, full, pool exhausted), `SchemaMismatch`
what an upgrade cures, `Duplicate` and `Violation` what only the caller can cure. `OutcomeUnknown` is
a commit whose answer was lost, `Contended` a transaction to be done again (a deadlock, or SQLite's file
stayed locked). A mistake of our own (bad SQL, a wrong type) is not translated: it stays loud.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator

import sqlalchemy as sa

from engine.db.tables import metadata
from engine.errors import Conflict, EngineError, InvalidInput, OutcomeUnknown, Unavailable

_SQLITE_UNIQUE = re.compile(r"UNIQUE constraint failed: (.+)")
_OTHER_SCHEMA = re.compile(
    r"no such (?:table|column)|has no column named|already exists|UndefinedTable|UndefinedColumn"
)
_OTHER_SCHEMA_STATES = frozenset({"42P01", "42703", "42P07", "42701"})
"""Undefined table or column, duplicate table or column."""


# SQLSTATEs, by their beginnings (PostgreSQL's appendix A).
_CONTENTION = frozenset({"40001", "40P01"})
"""Serialization failure, deadlock."""
_NOT_TEXT = ("22021", "22P05")
"""The character NUL, plain or in JSON: PostgreSQL has none."""
_SQLITE_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_CUT_OFF = ("08", "57P0", "25P03")
"""Connection errors, shut down or not up yet, ended for having been idle inside a transaction."""
_NOT_NOW = ("53", "58", "55P03", "57014", "25006", "28", "3D000")
"""Out of a resource or of order, a lock or statement took too long, read-only (a standby), not admitted."""


class Contended(Unavailable):
    """The database ended the transaction in favour of another one. Nothing was changed; do it again."""


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
def translated(*, committing: bool = False) -> Iterator[None]:
    """Raise the engine's errors in place of SQLAlchemy's.

    `committing`: what runs inside is a COMMIT, so a connection that breaks leaves the outcome unknown.
    """
    try:
        yield
    except sa.exc.DBAPIError as error:
        meaning = _meaning(error, committing)
        if meaning is None:
            raise
        raise meaning from error
    except sa.exc.TimeoutError as error:
        raise Unavailable("all database connections are in use") from error


@contextlib.contextmanager
def reached() -> Iterator[None]:
    """The same, where a connection is opened: the network's errors come as they are."""
    try:
        yield
    except OSError as error:
        said = str(error) or "no answer in time"
        raise Unavailable(f"the database cannot be reached: {said}") from error


def _meaning(error: sa.exc.DBAPIError, committing: bool) -> EngineError | None:
    """What the caller has to know; None for a mistake of our own."""
    state = str(getattr(error.orig, "sqlstate", None) or "")
    if isinstance(error, sa.exc.IntegrityError):
        return _conflict(error)
    if state in _NOT_TEXT:
        return InvalidInput(f"text that the database cannot hold: {_reason(error)}")
    if state in _CONTENTION:
        return Contended(f"another transaction came in between: {_reason(error)}")
    if (getattr(error.orig, "sqlite_errorcode", None) or 0) & 0xFF in _SQLITE_BUSY:
        return Contended(f"the database stayed locked by another process: {_reason(error)}")
    if _broken(error, state):
        if committing:
            return OutcomeUnknown(f"the database's answer to a commit was lost: {_reason(error)}")
        return Unavailable(f"the database did not answer: {_reason(error)}")
    if state in _OTHER_SCHEMA_STATES or _OTHER_SCHEMA.search(str(error.orig)):
        return SchemaMismatch(f"the database's schema is not as expected ({_reason(error)})")
    if state.startswith(_NOT_NOW) or (not state and not _own_mistake(error)):
        return Unavailable(f"the database did not answer: {_reason(error)}")
    return None


def _broken(error: sa.exc.DBAPIError, state: str) -> bool:
    return error.connection_invalidated or state.startswith(_CUT_OFF)


def _own_mistake(error: sa.exc.DBAPIError) -> bool:
    """SQLite calls bad SQL an operational error; its code tells it from a lock or a full disk, and a file
    that is no database comes as the bare class."""
    if type(error) in (sa.exc.OperationalError, sa.exc.DatabaseError):
        return getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
    return True


def _conflict(error: sa.exc.IntegrityError) -> Violation:
    reason = _reason(error)
    if found := _SQLITE_UNIQUE.search(reason):
        columns = [column.split(".") for column in found[1].split(", ")]
        return Duplicate(columns[0][0], tuple(column for _table, column in columns))
    if column := _detail(error, "column_name"):
        return Violation(f"the database refuses the write: {_detail(error, 'table_name')}.{column}: {reason}")
    name = _detail(error, "constraint_name")
    for table in metadata.tables.values():
        for constraint in table.constraints if name is not None else ():
            if not isinstance(constraint, sa.UniqueConstraint | sa.PrimaryKeyConstraint):
                continue
            if constraint.name == name:
                # str: SQLAlchemy's names are a kind of their own, which JSON knows nothing of
                return Duplicate(str(table.name), tuple(str(column.name) for column in constraint.columns))
    return Violation(f"the database refuses the write: {reason}")


def _detail(error: sa.exc.IntegrityError, name: str) -> str | None:
    """PostgreSQL drivers name the parts: psycopg in `diag`, asyncpg on the error itself."""
    for source in (getattr(error.orig, "diag", None), error.orig, getattr(error.orig, "__cause__", None)):
        if value := getattr(source, name, None):
            return str(value)
    return None


def _reason(error: sa.exc.DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
