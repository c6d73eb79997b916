"""An engine's view of its database: that all members share one, and whether it still answers.

Advertised in the member's node. An engine that is cut off while others are not gives up its shards;
where nobody reaches the database all keep what they have and pause.
"""

from __future__ import annotations

import asyncio
import logging

from engine.clock import boottime
from engine.coordination.membership import DbState, Membership
from engine.db.database import Database
from engine.errors import Conflict, Unavailable

LOG = logging.getLogger(__name__)

DATABASE_PING_SECONDS = 1.0
DATABASE_PATIENCE_SECONDS = 5.0


class DatabaseCut(Unavailable):
    """This engine has lost the database while others still reach it: they take its shards."""


async def watch_database(database: Database, membership: Membership) -> None:
    """Advertise whether the database answers; give up where others reach it and we do not."""
    answered_at = boottime()
    while True:
        await asyncio.sleep(DATABASE_PING_SECONDS)
        try:
            async with asyncio.timeout(DATABASE_PING_SECONDS):
                await database.ping()
        except (Unavailable, TimeoutError) as error:
            silent = boottime() - answered_at
            await _advertise(membership, "down", str(error) or "no answer in time")
            others = [m for m in membership.members if m.engine != membership.engine]
            if silent >= DATABASE_PATIENCE_SECONDS and any(m.db == "ok" for m in others):
                raise DatabaseCut(f"no answer from the database for {silent:.0f} s: {error}") from error
        else:
            await _advertise(membership, "ok", "it answers again")
            answered_at = boottime()


async def _advertise(membership: Membership, state: DbState, why: str) -> None:
    """Tell the others, unless they know. A network that fails often takes ZooKeeper away at the same time:
    then they are told at the next look, and the session goes on for as long as it may."""
    if membership.me.db == state:
        return
    LOG.log(logging.WARNING if state == "down" else logging.INFO, "the database is %s: %s", state, why)
    try:
        await membership.update(db=state)
    except Unavailable as error:
        LOG.info("the others are not told yet that the database is %s: %s", state, error)


def require_one_database(membership: Membership) -> None:
    """Raise `Conflict` where a member works on another database, or on this SQLite file from elsewhere."""
    mine = membership.me.database
    for member in membership.members:
        if member.database and member.database != mine:
            raise Conflict(
                f"{member.engine} ({member.address}, pid {member.pid}) works on another database than this"
                f" engine ({member.database}; here {mine}): engines of a cluster share one, and engines on"
                " several machines cannot share an SQLite file; set [database] url alike, to PostgreSQL"
                " where there are several machines"
            )
