"""What is run when (`schedule`), and each of its runs (`fire`)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "schedule",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("job_group", sa.String(255), nullable=False),
        sa.Column("origin", sa.String(16), nullable=False),
        sa.Column("shard", sa.Integer, nullable=False),
        sa.Column("trigger", sa.JSON, nullable=False),
        sa.Column("start_at", _time),
        sa.Column("end_at", _time),
        sa.Column("jitter_seconds", sa.Float, nullable=False),
        sa.Column("misfire", sa.String(16), nullable=False),
        sa.Column("grace_seconds", sa.Float, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("action", sa.String(255), nullable=False),
        sa.Column("arguments", sa.JSON, nullable=False),
        sa.Column("overlap", sa.Boolean, nullable=False),
        sa.Column("timeout_seconds", sa.Float),
        sa.Column("retries", sa.Integer, nullable=False),
        sa.Column("retry_seconds", sa.Float, nullable=False),
        sa.Column("recovery", sa.String(16), nullable=False),
        sa.Column("keep", sa.Integer, nullable=False),
        sa.Column("user", sa.String(255), nullable=False),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("next_fire_at", _time),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", _time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_schedule"),
        sa.UniqueConstraint("name", name="uq_schedule_name"),
    )
    op.create_index("ix_schedule_job_group", "schedule", ["job_group"])
    op.create_index("ix_schedule_shard_next_fire_at", "schedule", ["shard", "next_fire_at"])
    op.create_table(
        "fire",
        sa.Column("schedule_id", sa.String(36), nullable=False),
        sa.Column("fire_at", _time, nullable=False),
        sa.Column("shard", sa.Integer, nullable=False),
        sa.Column("epoch", sa.BigInteger),
        sa.Column("engine", sa.String(255)),
        sa.Column("cause", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("running_key", sa.String(36)),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("retry_at", _time),
        sa.Column("command_id", sa.String(36)),
        sa.Column("result", sa.JSON),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("started_at", _time),
        sa.Column("ended_at", _time),
        sa.PrimaryKeyConstraint("schedule_id", "fire_at", name="pk_fire"),
        sa.UniqueConstraint("running_key", name="uq_fire_running_key"),
    )
    still_open = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_fire_open_shard", "fire", ["shard"], sqlite_where=still_open, postgresql_where=still_open
    )
