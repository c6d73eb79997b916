"""Which schema revisions this code knows, and how a database compares with the newest.

The revisions are the files of `migrations/versions`, found inside the installed package.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from engine.db.errors import SchemaMismatch


def head() -> str:
    """The newest revision this code knows."""
    return revisions()[0]


@functools.cache
def revisions() -> tuple[str, ...]:
    """All revisions, newest first. The files of an installed package do not change: read once."""
    return tuple(script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions())


def revision_of(connection: sa.Connection) -> str | None:
    """The revision noted in the database behind `connection`; for `run_sync`."""
    return MigrationContext.configure(connection).get_current_revision()


def require_head(revision: str | None, *, known: Sequence[str] | None = None) -> None:
    """Raise `SchemaMismatch`, with the remedy, unless `revision` is the newest of `known`.

    `known`: newest first; this code's own by default.
    """
    known = known or revisions()
    if revision == known[0]:
        return
    if revision is None:
        raise SchemaMismatch("the database has no schema yet; run `engine db upgrade`")
    if revision in known:
        raise SchemaMismatch(
            f"the database's schema ({revision}) is older than this engine's ({known[0]}); "
            "run `engine db upgrade`"
        )
    raise SchemaMismatch(
        f"the database's schema ({revision}) is newer than this engine's ({known[0]}); "
        "upgrade this engine, or point it at its own database"
    )


def alembic_config() -> Config:
    """Alembic's configuration, without a file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
