"""Calls of tasks between real engines: where they are carried out, and what comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from engine.coordination.session import SessionSettings
from engine.db.database import Database
from engine.errors import Conflict, InvalidInput, NotFound, OutcomeUnknown, TaskFailed, Unavailable
from engine.execution.options import ExecutionSettings
from engine.plugin import Answer, EngineId, OnMember, OwnerOf
from engine.sharding.hashing import shard_of
from tests.contract.coordination.conftest import until
from tests.contract.execution.engines import SHARDS, Engine, divided, engine_on
from tests.contract.execution.tasks import Done, said

A, B = OnMember(EngineId("a")), OnMember(EngineId("b"))


async def test_a_call_for_a_key_is_carried_out_by_the_owner_of_its_shard(a: Engine, b: Engine) -> None:
    for engine in (a, b):
        for caller in (a, b):
            assert await caller.calls.call("whose", on=OwnerOf(engine.key())) == engine.name


async def test_a_call_on_a_member_is_carried_out_there(a: Engine, b: Engine) -> None:
    assert [await caller.calls.call("whose", on=on) for caller in (a, b) for on in (A, B)] == list("abab")


async def test_arguments_and_results_keep_their_types(a: Engine, b: Engine, witness: Path) -> None:
    done = await a.calls.call("work", {"id": "1", "file": str(witness)}, on=B)
    assert done == Done("b", "1")


async def test_what_the_task_raises_the_caller_catches(a: Engine, b: Engine) -> None:
    with pytest.raises(Conflict, match="it is not to be done"):
        await a.calls.call("refuses", on=B)


@pytest.mark.parametrize(
    ("task", "why"),
    [
        ("breaks", "RuntimeError: a mistake"),
        ("exits", "SystemExit: 3"),
        ("unspeakable", "cannot be carried as JSON"),
    ],
)
async def test_a_task_that_breaks_harms_nobody_but_its_call(
    a: Engine, b: Engine, task: str, why: str
) -> None:
    with pytest.raises(TaskFailed, match=why):
        await a.calls.call(task, on=B)
    assert await a.calls.call("whose", on=B) == "b"


async def test_what_is_unknown_is_named_with_what_there_is(a: Engine, b: Engine) -> None:
    with pytest.raises(NotFound, match="there is no task nonsense; there are again, breaks"):
        await a.calls.call("nonsense", on=B)
    with pytest.raises(NotFound, match="there is no member c; there are a, b"):
        await a.calls.call("whose", on=OnMember(EngineId("c")))


async def test_bad_arguments_are_refused_before_anything_is_sent(a: Engine, b: Engine) -> None:
    with pytest.raises(InvalidInput, match="bytes must be a whole number from 0 to 10000000"):
        await a.calls.call("letters", {"bytes": -1}, on=B)
    assert b.server.begun == 0


async def test_a_task_is_given_the_values_of_its_options(a: Engine, b: Engine) -> None:
    assert await a.calls.call("configured", on=B) == 5


async def test_results_and_arguments_that_are_too_large_are_refused_with_the_limit(
    a: Engine, b: Engine
) -> None:
    with pytest.raises(TaskFailed, match="has 1048579 bytes, at most 1048576 are carried"):
        await a.calls.call("letters", {"bytes": 1048577}, on=B)
    assert len(await a.calls.call("letters", {"bytes": 1048574}, on=B)) == 1048574
    with pytest.raises(InvalidInput, match="at most 1048576 are sent"):
        await a.calls.call("letters", {"ballast": "x" * 1048576}, on=B)


async def test_call_all_brings_each_answer_as_it_comes_and_errors_are_answers(
    a: Engine, b: Engine, witness: Path
) -> None:
    waiting = asyncio.create_task(b.calls.call("work", {"id": "0", "file": str(witness)}, on=B))
    await waiting
    answers = [answer async for answer in a.calls.call_all("whose")]
    assert {answer.engine: answer.result for answer in answers} == {"a": "a", "b": "b"}
    answers = [answer async for answer in a.calls.call_all("refuses")]
    assert {answer.engine for answer in answers} == {"a", "b"}
    assert all(isinstance(answer.error, Conflict) for answer in answers)


async def test_a_listener_of_call_all_who_leaves_cancels_what_is_left(
    a: Engine, b: Engine, witness: Path
) -> None:
    stream = a.calls.call_all("work", {"id": "1", "file": str(witness), "wait": True})
    first = asyncio.ensure_future(anext(stream))
    await until(lambda: len(said(witness)) == 2)
    first.cancel()
    await asyncio.wait([first])
    await stream.aclose()
    await until(lambda: sorted(said(witness)) == ["began a 1", "began b 1", "cancelled a 1", "cancelled b 1"])


async def test_map_calls_each_key_once_on_its_owner(a: Engine, b: Engine) -> None:
    keys = [f"k{n}" for n in range(60)]
    answers = [answer async for answer in a.calls.map("whose", [*keys, *keys])]
    assert sorted(answer.key or "" for answer in answers) == sorted(keys)
    assert all(answer.result == answer.engine for answer in answers), answers
    assert {answer.result for answer in answers} == {"a", "b"}


async def test_an_owner_that_leaves_during_a_map_ends_what_it_had_begun_and_idempotent_tasks_go_on(
    a: Engine, b: Engine, witness: Path
) -> None:
    keys = [f"k{n}" for n in range(300) if b.ownership.owner(shard_of(f"k{n}", SHARDS)) == "b"][:10]
    asked = {"id": "x", "file": str(witness), "wait": True}

    async def mapped(task: str) -> list[Answer]:
        return [answer async for answer in a.calls.map(task, keys, asked)]

    once, again = asyncio.create_task(mapped("work")), asyncio.create_task(mapped("again"))
    await until(lambda: said(witness).count("began b x") == 20)
    await b.leave()
    assert {type(answer.error) for answer in await once} == {OutcomeUnknown}
    await until(lambda: said(witness).count("began a x") == 10)
    witness.with_suffix(".go").touch()
    assert [answer.result for answer in await again] == [Done("a", "x")] * 10
    assert said(witness).count("began a x") == 10


async def test_a_caller_that_gives_up_cancels_the_task_over_there(
    a: Engine, b: Engine, witness: Path
) -> None:
    call = asyncio.create_task(a.calls.call("work", {"id": "1", "file": str(witness), "wait": True}, on=B))
    await until(lambda: said(witness) == ["began b 1"])
    call.cancel()
    await asyncio.wait([call])
    await until(lambda: said(witness) == ["began b 1", "cancelled b 1"])
    assert b.server.activities() == []


async def test_a_task_that_takes_too_long_is_ended_and_its_outcome_is_unknown(
    a: Engine, b: Engine, witness: Path
) -> None:
    with pytest.raises(OutcomeUnknown, match=r"had not ended on b in 0\.\d+ s"):
        await a.calls.call("work", {"id": "1", "file": str(witness), "wait": True}, on=B, timeout_seconds=0.3)
    await until(lambda: said(witness) == ["began b 1", "cancelled b 1"])


async def test_an_owner_that_leaves_in_the_middle_ends_the_task_and_only_an_idempotent_one_goes_on(
    a: Engine, b: Engine, witness: Path
) -> None:
    key = b.key()
    once = asyncio.create_task(
        a.calls.call("work", {"id": "once", "file": str(witness), "wait": True}, on=OwnerOf(key))
    )
    again = asyncio.create_task(
        a.calls.call("again", {"id": "again", "file": str(witness), "wait": True}, on=OwnerOf(key))
    )
    await until(lambda: len(said(witness)) == 2)
    await b.leave()
    with pytest.raises(OutcomeUnknown, match="b"):
        await once
    await until(lambda: "began a again" in said(witness))
    witness.with_suffix(".go").touch()
    assert await again == Done("a", "again")
    lines = said(witness)
    assert [line for line in lines if line.endswith(" once")] == ["began b once", "cancelled b once"]
    assert lines.index("cancelled b again") < lines.index("began a again")


async def test_a_callee_refuses_what_is_not_its_own_and_the_caller_follows(a: Engine, b: Engine) -> None:
    """Asked where the caller believes the owner to be, before it has heard of the change."""
    key = b.key()
    asked = [asyncio.create_task(a.calls.call("whose", on=OwnerOf(key))) for _ in range(20)]
    leaving = asyncio.create_task(b.leave())
    while not leaving.done():
        asked.append(asyncio.create_task(a.calls.call("whose", on=OwnerOf(key))))
        await asyncio.sleep(0.001)
    await leaving
    assert await a.calls.call("whose", on=OwnerOf(key)) == "a"
    assert set(await asyncio.gather(*asked)) <= {"a", "b"}


async def test_nobody_owns_it_so_nothing_was_done(a: Engine, b: Engine) -> None:
    key = b.key()
    await a.leave()
    await b.leave()
    with pytest.raises(Unavailable, match="nobody owns the shard") as raised:
        await a.calls.call("whose", on=OwnerOf(key), timeout_seconds=0.2)
    assert not isinstance(raised.value, OutcomeUnknown)


async def test_one_caller_cannot_take_all_there_is(
    settings: SessionSettings, database: Database, a: Engine, witness: Path
) -> None:
    async with engine_on(settings, "b", database, concurrent=3, per_caller=2) as b:
        await divided(a, b)
        asked = {"id": "1", "file": str(witness), "wait": True}
        waiting = [asyncio.create_task(a.calls.call("work", asked, on=B)) for _ in range(2)]
        await until(lambda: len(b.server.activities()) == 2)
        with pytest.raises(Unavailable, match="a has 2 calls under way on b"):
            await a.calls.call("work", asked, on=B)
        waiting.append(asyncio.create_task(b.calls.call("work", asked, on=B)))
        await until(lambda: len(b.server.activities()) == 3)
        with pytest.raises(Unavailable, match="engine b has 3 calls under way"):
            await b.calls.call("work", asked, on=B)
        witness.with_suffix(".go").touch()
        assert len(await asyncio.gather(*waiting)) == 3
        assert b.server.refused == 2


async def test_a_call_for_an_engine_that_was_here_before_is_not_carried_out(a: Engine, b: Engine) -> None:
    """Its address, but another session: somebody else's port, or an engine that began anew."""
    request = {
        "task": "whose",
        "cluster": "another",
        "engine": "b",
        "session": b.session.identity.session_id,
        "caller": "x",
        "seconds": 1,
    }
    url = next(m.calls for m in a.membership.members if m.engine == "b") + "/call"
    async with aiohttp.ClientSession() as session:
        async with session.post(url, json=request) as response:
            assert (await response.json())["refusal"] == "not_here"
        async with session.post(url, data="{}", headers={"Content-Type": "text/plain"}) as response:
            assert response.status == 415
    assert b.server.begun == 0


def test_without_tls_only_a_loopback_address_is_listened_on() -> None:
    with pytest.raises(InvalidInput, match="needs certificate, key and ca"):
        ExecutionSettings(host="0.0.0.0")
