"""An engine's view of its database: that all members share one, and whether it still answers.

Advertised in the member's node. An engine that is cut off while others are not gives up its shards;
where nobody reaches the database all keep what they have and pause.
"""

from __future__ import annotations

import asyncio
import logging

from engine.clock import boottime
from engine.coordination.membership import Membership
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
    down = False
    while True:
        await asyncio.sleep(DATABASE_PING_SECONDS)
        try:
            async with asyncio.timeout(DATABASE_PING_SECONDS):
                await database.ping()
        except (Unavailable, TimeoutError) as error:
            silent = boottime() - answered_at
            if not down:
                LOG.warning("the database does not answer: %s", str(error) or "no answer in time")
                await membership.update(db="down")
                down = True
            others = [m for m in membership.members if m.engine != membership.engine]
            if silent >= DATABASE_PATIENCE_SECONDS and any(m.db == "ok" for m in others):
                raise DatabaseCut(f"no answer from the database for {silent:.0f} s: {error}") from error
        else:
            if down:
                LOG.info("the database answers again")
                await membership.update(db="ok")
                down = False
            answered_at = boottime()


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
