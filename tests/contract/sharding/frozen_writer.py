"""A process that works for a session and stays in the middle of a write transaction: what an engine is
that is frozen just then. `python -m tests.contract.sharding.frozen_writer URL SESSION`"""

from __future__ import annotations

import asyncio
import sys

from engine.db.database import Database
from engine.db.tables import setting


async def main(url: str, session: int) -> None:
    async with Database(url) as database:
        database.work_for(session)
        async with database.writing() as connection:
            await connection.execute(setting.insert().values(name="late", value="1"))
            print("writing", flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
