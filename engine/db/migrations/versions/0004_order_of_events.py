"""Events bear the number of the transaction that wrote them: nobody who reads on misses one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "event", sa.Column("xact", sa.BigInteger, nullable=False, server_default=sa.text("0"))
    )
    op.create_index("ix_event_xact_id", "event", ["xact", "id"])
