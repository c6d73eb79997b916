"""Commands, their steps, and the keys under which clients ask for them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "command",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("arguments", sa.JSON, nullable=False),
        sa.Column("entity_kind", sa.String(32), nullable=False),
        sa.Column("entity_id", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("shard", sa.Integer, nullable=False),
        sa.Column("epoch", sa.BigInteger),
        sa.Column("engine", sa.String(255)),
        sa.Column("root_id", sa.String(36), nullable=False),
        sa.Column("parent_id", sa.String(36)),
        sa.Column("parent_operation", sa.String(36)),
        sa.Column("locks", sa.JSON, nullable=False),
        sa.Column("lock_token", sa.BigInteger),
        sa.Column("lock_wait_until", _time),
        sa.Column("user", sa.String(255), nullable=False),
        sa.Column("goal", sa.String(16)),
        sa.Column("undo_from", sa.String(64)),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("quarantine_until", _time),
        sa.Column("percent", sa.Integer, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("created_at", _time, nullable=False),
        sa.Column("started_at", _time),
        sa.Column("ended_at", _time),
        sa.PrimaryKeyConstraint("id", name="pk_command"),
    )
    op.create_index("ix_command_root_id", "command", ["root_id"])
    op.create_index("ix_command_parent_id", "command", ["parent_id"])
    op.create_index("ix_command_ended_at", "command", ["ended_at"])
    op.create_index("ix_command_created_at_id", "command", ["created_at", "id"])
    for name in ("state", "type", "entity_id"):
        op.create_index(f"ix_command_{name}_created_at_id", "command", [name, "created_at", "id"])
    still_open = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_command_open_shard", "command", ["shard"], sqlite_where=still_open, postgresql_where=still_open
    )
    op.create_table(
        "step",
        sa.Column("operation_id", sa.String(36), nullable=False),
        sa.Column("command_id", sa.String(36), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("verdict", sa.String(16)),
        sa.Column("host_id", sa.String(36)),
        sa.Column("children", sa.Integer, nullable=False),
        sa.Column("result", sa.JSON, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("intended_at", _time, nullable=False),
        sa.Column("ended_at", _time),
        sa.PrimaryKeyConstraint("operation_id", name="pk_step"),
        sa.UniqueConstraint("command_id", "number", name="uq_step_command_id_number"),
        sa.UniqueConstraint("command_id", "name", "attempt", name="uq_step_command_id_name_attempt"),
    )
    op.create_table(
        "idempotency",
        sa.Column("user", sa.String(255), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("command_id", sa.String(36), nullable=False),
        sa.Column("created_at", _time, nullable=False),
        sa.PrimaryKeyConstraint("user", "key", name="pk_idempotency"),
    )
    op.create_index("ix_idempotency_command_id", "idempotency", ["command_id"])
