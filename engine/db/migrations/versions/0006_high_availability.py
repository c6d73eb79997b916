"""What people want of a VM, when it is to be restarted, and how a host cluster is balanced."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("vm", sa.Column("priority", sa.Integer, nullable=False, server_default=sa.text("50")))
    op.add_column("vm", sa.Column("wanted", sa.String(8), nullable=False, server_default=sa.text("'down'")))
    op.add_column("vm", sa.Column("restart_tries", sa.Integer, nullable=False, server_default=sa.text("0")))
    op.add_column("vm", sa.Column("restart_at", sa.DateTime(timezone=True)))
    op.execute("UPDATE vm SET wanted = 'up' WHERE status <> 'down'")
    balancing = sa.Column("balancing", sa.String(16), nullable=False, server_default=sa.text("'none'"))
    op.add_column("host_cluster", balancing)
