"""Locks in the API, over a real ZooKeeper and a real database: shown, and taken away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from falcon.testing import ASGIConductor

from engine.clock import utcnow
from engine.commands import store
from engine.commands.records import CommandState
from engine.commands.sweeping import _tombstone
from engine.coordination.local import LocalServer
from engine.coordination.session import SessionSettings, open_session
from engine.db.database import Database
from engine.db.tables import command
from engine.errors import AuthorityLost
from engine.locks.lock import Locks
from engine.plugin import ShardId
from tests.contract.api.conftest import GivenCluster, conducting
from tests.contract.coordination.conftest import settings_for
from tests.contract.locks.conftest import INCARNATION, Engine, engine_on


@pytest.fixture
def settings(zookeeper: LocalServer, cluster_name: str) -> SessionSettings:
    return settings_for(zookeeper.hosts, cluster_name, timeout_seconds=4.0)


@pytest.fixture
async def engine(settings: SessionSettings) -> AsyncIterator[Engine]:
    async with engine_on(settings, "engine-1") as opened:
        yield opened


@pytest.fixture
async def locked(
    database: Database, cluster: GivenCluster, settings: SessionSettings
) -> AsyncIterator[ASGIConductor]:
    """The API with a session of its own, which is no member."""
    async with open_session(settings) as session:
        locks = Locks(session, engine="api-1", incarnation=INCARNATION)

        async def present() -> Locks:
            return locks

        async with conducting(database, cluster, locks=present) as conductor:
            yield conductor


async def get(api: ASGIConductor, path: str, query: str = "", status: int = 200) -> Any:
    result = await api.simulate_get(path, query_string=query)
    assert result.status_code == status, result.text
    return result.json


async def release(api: ASGIConductor, lock: str, status: int = 200, **body: object) -> Any:
    result = await api.simulate_post(f"/v1/locks/{lock}/release", json=body)
    assert result.status_code == status, result.text
    return result.json


async def test_locks_are_listed_and_shown_with_their_holders_and_waiters(
    locked: ASGIConductor, engine: Engine
) -> None:
    assert (await get(locked, "/v1/locks"))["locks"] == []
    token = await engine.locks.take_for_command(
        "c1", exclusive={"vm:1"}, shared={"host:1"}, user="admin", reason="vm.run"
    )
    async with engine.locks.acquire(exclusive={"vm:2"}, reason="looking"):
        document = await get(locked, "/v1/locks/vm:1")
        since = document.pop("since")
        assert since.endswith("Z")
        assert document == {
            "id": "command-c1",
            "keys": [{"key": "host:1", "mode": "shared"}, {"key": "vm:1", "mode": "exclusive"}],
            "lifetime": "command",
            "engine": "engine-1",
            "command": "c1",
            "user": "admin",
            "reason": "vm.run",
            "token": token,
            "waiting": {"host:1": [], "vm:1": []},
        }
        assert len((await get(locked, "/v1/locks"))["locks"]) == 2
        (found,) = (await get(locked, "/v1/locks", "key=vm:2"))["locks"]
        assert (found["lifetime"], found["command"], found["reason"]) == ("session", None, "looking")
        first = await get(locked, "/v1/locks", "limit=1")
        assert len(first["locks"]) == 1
        assert first["next"]
    await get(locked, "/v1/locks/vm:2", status=404)


async def test_a_release_needs_to_be_confirmed(locked: ASGIConductor, engine: Engine) -> None:
    async with engine.locks.acquire(exclusive={"vm:1"}) as fence:
        refused = await release(locked, "vm:1", status=422)
        assert "confirm" in refused["fields"]
        await release(locked, "vm:1", status=422, confirm="yes")
        fence.check()


async def test_an_engine_whose_lock_is_released_is_fenced_and_the_event_says_who_did_it(
    locked: ASGIConductor, engine: Engine
) -> None:
    inside = asyncio.Event()

    async def body() -> None:
        async with engine.locks.acquire(exclusive={"vm:1"}):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await inside.wait()
    assert (await release(locked, "vm:1", confirm=True, reason="it hangs"))["released"]
    async with asyncio.timeout(5):
        with pytest.raises(AuthorityLost, match="released by force"):
            await task
    (event,) = (await get(locked, "/v1/events"))["events"]
    assert event["kind"] == "lock_released_by_force"
    assert "vm:1 from a task on engine-1" in event["message"]
    assert event["data"]["reason"] == "it hangs"


async def test_a_command_whose_locks_are_released_can_write_no_more(
    locked: ASGIConductor, engine: Engine, database: Database, cluster: GivenCluster
) -> None:
    token = await engine.locks.take_for_command("c1", exclusive={"vm:1"}, user="", reason="")
    row = _tombstone("c1", ShardId(3), utcnow())
    async with database.writing() as connection:
        await store.insert(connection, [row])
        await connection.execute(
            command.update().values(state=CommandState.RUNNING, ended_at=None, lock_token=token)
        )
    assert (await release(locked, "command-c1", confirm=True))["released"]
    async with database.reading() as connection:
        left = (await connection.execute(sa.select(command.c.lock_token))).scalar_one()
    assert left is None
    assert await engine.locks.command_token("c1") is None
    assert cluster.bumped == [3]


async def test_a_key_with_several_holders_names_none(locked: ASGIConductor, engine: Engine) -> None:
    async with engine.locks.acquire(shared={"host:1"}), engine.locks.acquire(shared={"host:1"}):
        problem = await get(locked, "/v1/locks/host:1", status=409)
    assert "shared by 2 holders" in problem["detail"]


async def test_without_zookeeper_locks_are_unavailable(api: ASGIConductor) -> None:
    await get(api, "/v1/locks", status=503)
