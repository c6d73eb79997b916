"""The first schema: settings, incarnations, shards, hosts, events, leaderships."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_big_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "setting",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("value", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_setting"),
    )
    op.create_table(
        "incarnation",
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("registered_at", _time, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_incarnation"),
        sa.UniqueConstraint("id", name="uq_incarnation_id"),
    )
    op.create_table(
        "shard",
        sa.Column("shard", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.String(255)),
        sa.Column("taken_at", _time),
        sa.PrimaryKeyConstraint("shard", name="pk_shard"),
    )
    op.create_table(
        "host",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("address", sa.String(255), nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("driver", sa.String(64), nullable=False),
        sa.Column("shard", sa.Integer, nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("status_reason", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("status_since", _time, nullable=False),
        sa.Column("capabilities", sa.JSON),
        sa.Column("statistics", sa.JSON),
        sa.Column("reported_at", _time),
        sa.Column("created_at", _time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_host"),
        sa.UniqueConstraint("name", name="uq_host_name"),
        sa.UniqueConstraint("address", "port", name="uq_host_address_port"),
    )
    op.create_index("ix_host_shard", "host", ["shard"])
    op.create_index("ix_host_status", "host", ["status"])
    op.create_table(
        "event",
        sa.Column("id", _big_id, autoincrement=True, nullable=False),
        sa.Column("at", _time, nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("engine", sa.String(255)),
        sa.Column("host_id", sa.String(36)),
        sa.Column("data", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_event"),
    )
    op.create_index("ix_event_at", "event", ["at"])
    op.create_index("ix_event_host_id", "event", ["host_id"])
    op.create_table(
        "leadership",
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leadership"),
    )
