"""`engine locks` against a real API, a real ZooKeeper and a real database."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import orjson

from engine.coordination.session import Create, open_session
from engine.db.database import Database
from engine.locks.lock import Locks
from engine.sharding.store import EpochStore
from tests.contract.cli.conftest import Engine, RunningApi


@contextlib.asynccontextmanager
async def locking(api: RunningApi) -> AsyncIterator[Locks]:
    """The locks of a process in a tree that an engine has been in."""
    async with open_session(api.settings) as session, Database(api.database) as database:
        known = await EpochStore(database).register_incarnation("a tree")
        path = session.paths.incarnation
        if await session.exists(path) is None:
            await session.ensure(session.paths.root)
            await session.commit(Create(path, orjson.dumps({"id": "a tree", "settled": True})))
        yield Locks(session, engine="engine-x", incarnation=known.number)


async def test_locks_are_listed_shown_and_released_and_only_with_yes(engine: Engine, api: RunningApi) -> None:
    async with locking(api) as locks:
        token = await locks.take_for_command(
            "c1", exclusive={"vm:1"}, shared={"host:1"}, user="admin", reason="vm.run"
        )

        async def run(*arguments: str) -> tuple[int, str, str]:
            done = await asyncio.to_thread(engine, *arguments)
            return done.code, done.out, done.err

        code, out, err = await run("locks", "list")
        assert code == 0, err
        assert "host:1 (shared), vm:1" in out
        assert "engine-x" in out
        assert orjson.loads((await run("locks", "list", "--key", "vm:2", "-f", "json"))[1]) == []
        shown = orjson.loads((await run("locks", "show", "vm:1", "-f", "json"))[1])
        assert (shown["command"], shown["token"]) == ("c1", token)
        assert (await run("locks", "show", "vm:2"))[0] == 4
        code, _, err = await run("locks", "release", "vm:1")
        assert code == 1
        assert "host:1 (shared), vm:1, held by c1 on engine-x: nothing was released; add --yes" in err
        assert await locks.command_token("c1") == token
        code, out, err = await run("locks", "release", "vm:1", "--yes", "--reason", "it hangs")
        assert (code, out) == (0, "released host:1 (shared), vm:1, held by c1 on engine-x\n"), err
        assert await locks.command_token("c1") is None
        events = orjson.loads((await run("events", "list", "-f", "json"))[1])
        assert "lock_released_by_force" in [event["kind"] for event in events]
