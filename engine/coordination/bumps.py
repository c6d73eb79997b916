"""The inbox: one node a shard, set by whoever has put work for its owner into the database.

A bump carries nothing and is no promise: owners look by themselves, too.
"""

from __future__ import annotations

import contextlib

import orjson

from engine.clock import utcnow
from engine.coordination.operations import Create, Reason, Rejected, SetData
from engine.coordination.session import Session
from engine.plugin import ShardId


async def bump_inbox(session: Session, shard: ShardId, *, by: str) -> None:
    """Tell the owner of `shard` that something waits for it. Raises `Unavailable`."""
    path = session.paths.inbox_shard(shard)
    data = orjson.dumps({"at": utcnow(), "by": by})
    try:
        await session.commit(SetData(path, data))
    except Rejected as refused:
        if refused.reason is not Reason.ABSENT:
            raise
        with contextlib.suppress(Rejected):  # another process has just created it: that is a bump too
            await session.commit(Create(path, data))
