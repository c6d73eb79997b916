"""The translation of SQL errors that only other databases raise."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from engine.db.errors import Duplicate, SchemaMismatch, Violation, translated
from engine.errors import Unavailable


class DriverError(Exception):
    constraint_name: str | None = None


def driver_error(message: str, constraint: str | None = None) -> DriverError:
    error = DriverError(message)
    error.constraint_name = constraint
    return error


def test_a_constraint_named_by_the_driver_is_told_by_its_fields() -> None:
    original = driver_error('duplicate key value violates "uq_host_address_port"', "uq_host_address_port")
    with pytest.raises(Duplicate) as caught, translated():
        raise sa.exc.IntegrityError("INSERT", {}, original)
    assert (caught.value.table, caught.value.fields) == ("host", ("address", "port"))


def test_a_constraint_nobody_knows_is_a_violation_that_quotes_the_driver() -> None:
    with pytest.raises(Violation, match="check_this"), translated():
        raise sa.exc.IntegrityError("INSERT", {}, driver_error("violates check_this", "check_this"))


def test_a_table_that_does_not_exist_is_a_matter_of_the_schema() -> None:
    with pytest.raises(SchemaMismatch), translated():
        raise sa.exc.ProgrammingError("SELECT", {}, driver_error("<class 'UndefinedTableError'>: host"))


def test_a_connection_that_broke_is_unavailable_whatever_its_class() -> None:
    with pytest.raises(Unavailable), translated():
        raise sa.exc.InterfaceError("SELECT", {}, driver_error("closed"), connection_invalidated=True)


def test_a_mistake_of_our_own_stays_loud() -> None:
    with pytest.raises(sa.exc.ProgrammingError), translated():
        raise sa.exc.ProgrammingError("SELEKT", {}, driver_error("syntax error"))
