"""A callee that is frozen in the middle: what may have been done is not done again."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.coordination.session import SessionSettings
from engine.db.database import Database
from engine.errors import OutcomeUnknown, Unavailable
from engine.plugin import EngineId, OnMember, OwnerOf
from engine.processes import leashed
from engine.sharding.hashing import shard_of
from tests.contract.coordination.conftest import until
from tests.contract.execution.engines import SHARDS, Engine
from tests.contract.execution.tasks import Done, said

ROOT = Path(__file__).resolve().parents[3]


@contextlib.asynccontextmanager
async def process_of(
    name: str, settings: SessionSettings, database: Database
) -> AsyncIterator[asyncio.subprocess.Process]:
    """An engine in a process of its own, serving."""
    argv = [sys.executable, "-m", "tests.contract.execution.engines"]
    process = await asyncio.create_subprocess_exec(
        *leashed([*argv, settings.hosts, settings.cluster, name, database.url]),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def keys_of(engine: Engine, owner: str) -> list[str]:
    """Keys that are `owner`'s as `engine` sees it."""
    keys = [f"k{n}" for n in range(200)]
    return [key for key in keys if engine.ownership.owner(shard_of(key, SHARDS)) == owner]


async def test_a_frozen_owner_is_followed_to_its_heir_only_by_what_is_idempotent(
    a: Engine, settings: SessionSettings, database: Database, witness: Path
) -> None:
    async with process_of("c", settings, database) as process:
        await until(lambda: len(a.ownership.owned) == SHARDS // 2)
        await until(lambda: len(keys_of(a, "c")) >= 1)
        key = keys_of(a, "c")[0]
        assert await a.calls.call("whose", on=OwnerOf(key)) == "c"
        process.send_signal(signal.SIGSTOP)
        once = asyncio.create_task(
            a.calls.call("work", {"id": "once", "file": str(witness)}, on=OwnerOf(key), timeout_seconds=30)
        )
        again = asyncio.create_task(
            a.calls.call("again", {"id": "again", "file": str(witness)}, on=OwnerOf(key), timeout_seconds=30)
        )
        with pytest.raises(OutcomeUnknown, match="c is not who it was"):
            await once
        assert await again == Done("a", "again")
        process.send_signal(signal.SIGCONT)
        await process.wait()  # it finds its session gone, and ends
    assert [line for line in said(witness) if line.startswith("began")] == ["began a again"]


async def test_a_frozen_member_does_not_hold_its_caller_longer_than_the_time_it_gave(
    a: Engine, settings: SessionSettings, database: Database
) -> None:
    async with process_of("c", settings, database) as process:
        await until(lambda: len(a.membership.members) == 2)
        on = OnMember(EngineId("c"))
        assert await a.calls.call("whose", on=on) == "c"
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(OutcomeUnknown, match=r"engine c did not answer within 0\.2"):
            await a.calls.call("whose", on=on, timeout_seconds=0.2)
        answers = {x.engine: x async for x in a.calls.call_all("whose", timeout_seconds=0.2)}
        assert answers[EngineId("a")].result == "a"
        assert isinstance(answers[EngineId("c")].error, OutcomeUnknown)


async def test_a_member_whose_process_is_gone_is_not_reached_and_nothing_was_done(
    a: Engine, settings: SessionSettings, database: Database, witness: Path
) -> None:
    async with process_of("c", settings, database) as process:
        await until(lambda: len(a.membership.members) == 2)
        process.kill()
        await process.wait()
        with pytest.raises(Unavailable, match="engine c cannot be reached at http://") as raised:
            await a.calls.call("work", {"id": "1", "file": str(witness)}, on=OnMember(EngineId("c")))
        assert not isinstance(raised.value, OutcomeUnknown)
