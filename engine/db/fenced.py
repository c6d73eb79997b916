"""What a host's being off settles: every step that was under way there, of whatever command.

Called inside the fencing command's own transaction. The commands are taken away from whoever runs
them (or nobody, where they need an operator): they are begun anew from their rows. What else they have
sent, to hosts that are not off, may be on its way, so this is not as if they had been handed over.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db.tables import command, step
from engine.plugin import HostId, ShardId

_FENCED = "fenced"
TAKEN_AWAY = -1
"""The epoch of a command that was taken from its owner in the middle of something."""


async def settle_steps(
    connection: AsyncConnection, host_id: HostId, *, but: str, at: datetime
) -> set[ShardId]:
    """Mark the steps of commands other than `but` that were sent to this host before `at`; the shards
    whose owners have to look."""
    sent = (
        (step.c.host_id == host_id)
        & (step.c.intended_at <= at)
        & (step.c.children == 0)
        & (step.c.state.in_(("intended", "done")) | (step.c.verdict == "unknown"))
    )
    touched = sa.select(step.c.command_id).where(sent, step.c.command_id != but)
    # In this order, as everybody else does: the command, then its steps.
    rows = await connection.execute(
        sa.select(command.c.id, command.c.shard)
        .where(command.c.id.in_(touched), command.c.ended_at.is_(None))
        .order_by(command.c.id)
        .with_for_update()
    )
    found = {row.id: ShardId(row.shard) for row in rows}
    if not found:
        return set()
    await connection.execute(
        command.update()
        .where(command.c.id.in_(list(found)), command.c.state != "needs_operator")
        .values(epoch=TAKEN_AWAY)
    )
    await connection.execute(
        command.update()
        .where(command.c.id.in_(list(found)), command.c.state == "needs_operator")
        .values(state="queued", epoch=None, error="")
    )
    await connection.execute(
        step.update().where(sent, step.c.command_id.in_(list(found))).values(verdict=_FENCED)
    )
    return set(found.values())
