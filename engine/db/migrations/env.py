"""Run by alembic: migrate over the connection that `engine.db.migrate` opened and locked."""

from __future__ import annotations

from alembic import context

from engine.db.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite's DDL is transactional once the driver's own BEGIN is off; alembic assumes it is not.
    transactional_ddl=True,
    render_as_batch=True,
    compare_type=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
