"""Virtual machines, clusters of hosts (with the one all begin with), and what hosts need for them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_time = sa.DateTime(timezone=True)
_DEFAULT_CLUSTER = "00000000-0000-0000-0000-000000000001"


def upgrade() -> None:
    clusters = op.create_table(
        "host_cluster",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("description", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("policy", sa.String(16), nullable=False),
        sa.Column("memory_percent", sa.Integer, nullable=False),
        sa.Column("cpu_percent", sa.Integer, nullable=False),
        sa.Column("fencing", sa.Boolean, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", _time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_host_cluster"),
        sa.UniqueConstraint("name", name="uq_host_cluster_name"),
    )
    op.execute(
        clusters.insert().values(
            id=_DEFAULT_CLUSTER,
            name="default",
            description="",
            policy="spread",
            memory_percent=100,
            cpu_percent=1000,
            fencing=True,
            version=1,
            created_at=sa.func.current_timestamp(),
        )
    )
    cluster_id = sa.Column(
        "cluster_id", sa.String(36), nullable=False, server_default=sa.text(f"'{_DEFAULT_CLUSTER}'")
    )
    for column in (
        cluster_id,
        sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.Column("power_management", sa.JSON),
        sa.Column("fenced_at", _time),
        sa.Column("asked", sa.String(32)),
        sa.Column("asked_count", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("heeded_count", sa.Integer, nullable=False, server_default=sa.text("0")),
    ):
        op.add_column("host", column)
    op.create_index("ix_host_cluster_id", "host", ["cluster_id"])
    op.create_table(
        "vm",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("description", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("cluster_id", sa.String(36), nullable=False),
        sa.Column("shard", sa.Integer, nullable=False),
        sa.Column("memory_bytes", sa.BigInteger, nullable=False),
        sa.Column("cpus", sa.Integer, nullable=False),
        sa.Column("highly_available", sa.Boolean, nullable=False),
        sa.Column("pinned_host_id", sa.String(36)),
        sa.Column("affinity_group", sa.String(255)),
        sa.Column("affinity", sa.String(16)),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("status_reason", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("status_since", _time, nullable=False),
        sa.Column("host_id", sa.String(36)),
        sa.Column("destination_id", sa.String(36)),
        sa.Column("operation_id", sa.String(64)),
        sa.Column("missing_since", _time),
        sa.Column("tried_hosts", sa.JSON),
        sa.Column("exit_code", sa.Integer),
        sa.Column("exit_reason", sa.Integer),
        sa.Column("exit_message", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("reported_at", _time),
        sa.Column("created_at", _time, nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.PrimaryKeyConstraint("id", name="pk_vm"),
        sa.UniqueConstraint("name", name="uq_vm_name"),
    )
    for name in ("cluster_id", "shard", "status", "host_id", "destination_id"):
        op.create_index(f"ix_vm_{name}", "vm", [name])
