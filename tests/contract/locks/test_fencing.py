"""What a former holder sends too late hurts no later one; a lost reply is settled.

The late transactions are written by hand, as a process would send them that slept in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from engine.coordination.local import LocalServer
from engine.coordination.relay import Link
from engine.coordination.session import Create, Reason, Rejected, Session, SessionSettings
from engine.errors import Unavailable
from engine.locks.keys import Mode
from engine.locks.lock import FOREVER, LockRefused
from engine.locks.transactions import Step, releasing
from tests.contract.coordination.conftest import settings_for
from tests.contract.locks.conftest import Engine, engine_on, left, nothing_left, waiting

KEYS = {"vm:1": Mode.EXCLUSIVE, "host:1": Mode.SHARED}


async def send(session: Session, steps: list[Step]) -> Rejected:
    """Commit, and return the refusal."""
    with pytest.raises(Rejected) as refused:
        await session.commit(*(step.operation for step in steps))
    return refused.value


async def test_a_late_release_fails_as_a_whole(a: Engine, b: Engine, onlooker: Session) -> None:
    async with a.locks.acquire(exclusive={"vm:1"}, shared={"host:1"}) as fence:
        late = releasing(onlooker.paths, fence.nonce, fence.modes)
    async with b.locks.acquire(exclusive={"vm:1"}, shared={"host:1"}) as later:
        before = await left(onlooker)
        for by in (a.session, b.session, onlooker):
            assert (await send(by, late)).reason is Reason.ABSENT
        assert not await a.locks._releases.end(fence.nonce, fence.modes)
        assert await left(onlooker) == before
        later.check()
        assert later.token > fence.token
        await b.session.commit(later.guard())


async def test_a_late_sweep_of_a_command_fails_as_a_whole(a: Engine, b: Engine, onlooker: Session) -> None:
    await a.locks.take_for_command("c1", exclusive={"vm:1"}, shared={"host:1"}, user="", reason="")
    held = await b.locks.command_hold("c1")
    assert held is not None
    late = releasing(onlooker.paths, held.nonce, held.modes)
    await a.locks.release_command("c1")
    await a.locks.take_for_command("c2", exclusive={"vm:1"}, shared={"host:1"}, user="", reason="")
    before = await left(onlooker)
    assert (await send(onlooker, late)).reason is Reason.ABSENT
    assert not await b.locks.release_by_force(held)
    assert await left(onlooker) == before
    await b.locks.release_command("c2")
    assert await left(onlooker) == []


async def test_a_late_write_under_the_guard_of_a_former_holder_fails(a: Engine, b: Engine) -> None:
    async with a.locks.acquire(exclusive={"vm:1"}) as fence:
        late = [Step(fence.guard()), Step(Create(f"{a.session.paths.root}/effect"))]
    refused = await send(a.session, late)
    assert (refused.index, refused.reason) == (0, Reason.ABSENT)
    async with b.locks.acquire(exclusive={"vm:1"}) as later:
        assert later.guard() != fence.guard()
        assert (await send(b.session, late)).index == 0


async def test_a_late_taking_is_refused_like_any_other(a: Engine, b: Engine, onlooker: Session) -> None:
    """A former holder's own request to take, delivered again, when somebody else has the keys."""
    async with a.locks.acquire(exclusive={"vm:1"}) as fence:
        node = await onlooker.get(fence.guard().path)
        assert node is not None
        late = [
            Step(Create(fence.guard().path, node.data, True)),
            Step(Create(onlooker.paths.lock("vm:1"), fence.nonce.encode(), True)),
        ]
    async with b.locks.acquire(exclusive={"vm:1"}) as later:
        assert (await send(a.session, late)).index == 1
        later.check()
    assert await left(onlooker) == []


# --- lost replies -----------------------------------------------------------------------------------


@pytest.fixture
async def shaky(zookeeper: LocalServer, settings: SessionSettings) -> AsyncIterator[tuple[Engine, Link]]:
    """An engine whose replies a test can swallow."""
    link = zookeeper.link()
    async with engine_on(settings_for(link.hosts, settings.cluster, timeout_seconds=10), "shaky") as engine:
        yield engine, link


async def held(onlooker: Session, count: int) -> None:
    async with asyncio.timeout(10):
        while len(await onlooker.children(onlooker.paths.holds)) != count:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_taking_whose_reply_was_lost_is_found_to_be_ours(
    shaky: tuple[Engine, Link], onlooker: Session
) -> None:
    engine, link = shaky
    lock = engine.locks.lock(exclusive={"vm:1"}, shared={"host:1"})
    await lock.acquire()
    await lock.release()
    link.mute()
    taking = asyncio.create_task(lock.acquire())
    await held(onlooker, 1)
    link.reset()
    link.thaw()
    async with asyncio.timeout(10):
        assert await taking
    assert lock.fence is not None
    stat = await onlooker.exists(lock.fence.guard().path)
    assert stat is not None
    assert lock.fence.token & (1 << 48) - 1 == stat.czxid
    await lock.release()
    await nothing_left(onlooker)


async def test_a_command_whose_taking_was_not_answered_has_its_locks_once(
    shaky: tuple[Engine, Link], onlooker: Session
) -> None:
    engine, link = shaky
    link.mute()
    taking = asyncio.create_task(engine.locks.take_for_command("c1", exclusive={"vm:1"}, user="", reason=""))
    await held(onlooker, 1)
    link.reset()
    link.thaw()
    async with asyncio.timeout(10):
        assert await taking == await engine.locks.command_token("c1")
    await engine.locks.release_command("c1")
    assert await left(onlooker) == []


async def test_a_release_whose_reply_was_lost_is_carried_out_once(
    shaky: tuple[Engine, Link], onlooker: Session
) -> None:
    engine, link = shaky
    lock = engine.locks.lock(exclusive={"vm:1"})
    await lock.acquire()
    link.mute()
    releasing_it = asyncio.create_task(lock.release())
    await held(onlooker, 0)
    link.reset()
    link.thaw()
    async with asyncio.timeout(10):
        assert await releasing_it
    await engine.session.wait_connected(10)
    assert await lock.acquire()
    await lock.release()
    await nothing_left(onlooker)


async def test_a_taker_cancelled_while_the_reply_is_lost_leaves_nothing(
    shaky: tuple[Engine, Link], onlooker: Session
) -> None:
    engine, link = shaky
    lock = engine.locks.lock(exclusive={"vm:1"})
    await lock.acquire()
    await lock.release()
    link.mute()
    taking = asyncio.create_task(lock.acquire())
    await held(onlooker, 1)
    taking.cancel()
    await asyncio.wait([taking])
    link.reset()
    link.thaw()
    await nothing_left(onlooker)


async def test_while_disconnected_a_try_fails_at_once(shaky: tuple[Engine, Link]) -> None:
    engine, link = shaky
    link.sever()
    async with asyncio.timeout(5):
        while engine.session.connected:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    with pytest.raises(Unavailable):
        await engine.locks.take_for_command("c1", exclusive={"vm:1"}, user="", reason="")
    link.thaw()


async def test_a_place_in_the_line_whose_reply_was_lost_is_found_again(
    shaky: tuple[Engine, Link], a: Engine, onlooker: Session
) -> None:
    engine, link = shaky

    async def one(waiting_engine: Engine) -> None:
        async with waiting_engine.locks.acquire(exclusive={"vm:1"}, wait=FOREVER):
            pass

    async with a.locks.acquire(exclusive={"vm:1"}):
        before = asyncio.create_task(one(a))
        await waiting(a.locks, "vm:1", ["a"])
        with pytest.raises(LockRefused):  # so that the next one goes to the line at once
            async with engine.locks.acquire(exclusive={"vm:1"}):
                pytest.fail("two have it")
        link.mute()
        waiter = asyncio.create_task(one(engine))
        await waiting(a.locks, "vm:1", ["a", "shaky"])
        link.reset()
        link.thaw()
        await engine.session.wait_connected(10)
        assert await a.locks.waiters("vm:1") == ["a", "shaky"]
    async with asyncio.timeout(10):
        await asyncio.gather(before, waiter)
    await nothing_left(onlooker)
