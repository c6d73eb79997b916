"""Those who wait for a lock: in which order they get it, and that nothing stays of them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from engine.coordination.local import LocalServer
from engine.coordination.session import Session, SessionSettings
from engine.locks.lock import FOREVER, LockRefused
from tests.contract.coordination.conftest import settings_for
from tests.contract.locks.conftest import Engine, engine_on, nothing_left, waiting


async def test_waiters_are_served_in_the_order_in_which_they_came(
    a: Engine, b: Engine, onlooker: Session
) -> None:
    served: list[int] = []

    async def one(engine: Engine, number: int) -> None:
        async with engine.locks.acquire(exclusive={"vm:1"}, wait=FOREVER):
            served.append(number)

    tasks = []
    names: list[str] = []
    async with a.locks.acquire(exclusive={"vm:1"}):
        for number in range(8):
            engine = (a, b)[number % 2]
            tasks.append(asyncio.create_task(one(engine, number)))
            names.append(engine.name)
            await waiting(a.locks, "vm:1", names)
        assert served == []
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks)
    assert served == list(range(8))
    await nothing_left(onlooker)


async def test_a_release_wakes_one_waiter_and_leaves_the_others_asleep(
    a: Engine, b: Engine, onlooker: Session
) -> None:
    """Counted on the wire: what the engine of the waiters asks ZooKeeper in one handoff."""
    asked = 0
    channel = b.session._channel
    send = channel.send

    def counting(*arguments: Any, **options: Any) -> asyncio.Future[Any]:
        nonlocal asked
        asked += 1
        return send(*arguments, **options)

    channel.send = counting  # type: ignore[method-assign]
    release = [asyncio.Event() for _ in range(10)]
    got = [asyncio.Event() for _ in range(10)]

    async def one(number: int) -> None:
        async with b.locks.acquire(exclusive={"vm:1"}, wait=FOREVER):
            got[number].set()
            await release[number].wait()

    async with a.locks.acquire(exclusive={"vm:1"}):
        tasks = []
        for number in range(10):
            tasks.append(asyncio.create_task(one(number)))
            await waiting(a.locks, "vm:1", ["b"] * (number + 1))
        before = asked
    async with asyncio.timeout(5):
        await got[0].wait()
    # Its transaction; then it leaves the line, and the next one takes its place there.
    assert asked - before <= 10
    assert not any(event.is_set() for event in got[1:])
    for event in release:
        event.set()
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks)
    await nothing_left(onlooker)


async def test_a_waiter_whose_time_is_up_learns_who_has_it_and_leaves_nothing(
    a: Engine, b: Engine, onlooker: Session
) -> None:
    async with a.locks.acquire(exclusive={"vm:1"}):
        with pytest.raises(LockRefused, match="vm:1 is locked by a task on a"):
            async with b.locks.acquire(exclusive={"vm:1"}, wait=timedelta(milliseconds=60)):
                pytest.fail("two have it")
    await nothing_left(onlooker)


async def test_a_cancelled_waiter_leaves_nothing_and_the_next_one_moves_up(
    a: Engine, b: Engine, onlooker: Session
) -> None:
    async def one(engine: Engine) -> None:
        async with engine.locks.acquire(exclusive={"vm:1"}, wait=FOREVER):
            pass

    async with a.locks.acquire(exclusive={"vm:1"}):
        first = asyncio.create_task(one(b))
        await waiting(a.locks, "vm:1", ["b"])
        second = asyncio.create_task(one(a))
        await waiting(a.locks, "vm:1", ["b", "a"])
        first.cancel()
        await waiting(a.locks, "vm:1", ["a"])
    async with asyncio.timeout(5):
        await second
    await nothing_left(onlooker)


async def test_a_waiter_that_dies_does_not_hold_up_the_line(
    settings: SessionSettings, a: Engine, onlooker: Session
) -> None:
    async def one(engine: Engine) -> None:
        async with engine.locks.acquire(exclusive={"vm:1"}, wait=FOREVER):
            pass

    async with engine_on(settings, "dying") as dying, a.locks.acquire(exclusive={"vm:1"}):
        doomed = asyncio.create_task(one(dying))
        await waiting(a.locks, "vm:1", ["dying"])
        heir = asyncio.create_task(one(a))
        await waiting(a.locks, "vm:1", ["dying", "a"])
        dying.session.end("the test says so")
        await asyncio.wait([doomed])
    async with asyncio.timeout(10):
        await heir
    await nothing_left(onlooker)


async def test_a_sharer_in_the_line_waits_for_the_exclusive_only_and_lets_the_next_sharer_in(
    a: Engine, b: Engine, onlooker: Session
) -> None:
    both = asyncio.Barrier(2)

    async def share(engine: Engine) -> None:
        async with engine.locks.acquire(shared={"host:1"}, wait=FOREVER), asyncio.timeout(5):
            await both.wait()

    async with a.locks.acquire(exclusive={"host:1"}):
        first = asyncio.create_task(share(a))
        await waiting(a.locks, "host:1", ["a"])
        second = asyncio.create_task(share(b))
        await waiting(a.locks, "host:1", ["a", "b"])
    await asyncio.gather(first, second)
    await nothing_left(onlooker)


async def test_the_exclusive_in_the_line_waits_for_the_last_sharer(
    a: Engine, b: Engine, onlooker: Session
) -> None:
    async def one() -> None:
        async with b.locks.acquire(exclusive={"host:1"}, wait=FOREVER):
            pass

    async with a.locks.acquire(shared={"host:1"}):
        async with b.locks.acquire(shared={"host:1"}):
            task = asyncio.create_task(one())
            await waiting(a.locks, "host:1", ["b"])
        assert not task.done()
    async with asyncio.timeout(5):
        await task
    await nothing_left(onlooker)


async def test_a_multi_key_waiter_moves_to_the_line_of_whatever_key_refuses_it(
    a: Engine, b: Engine, onlooker: Session
) -> None:
    async def both() -> None:
        async with b.locks.acquire(exclusive={"vm:1", "vm:2"}, wait=FOREVER):
            pass

    first, second = a.locks.lock(exclusive={"vm:1"}), a.locks.lock(exclusive={"vm:2"})
    await first.acquire()
    await second.acquire()
    task = asyncio.create_task(both())
    await waiting(a.locks, "vm:1", ["b"])
    await first.release()
    await waiting(a.locks, "vm:2", ["b"])
    assert await a.locks.waiters("vm:1") == []
    async with a.locks.acquire(exclusive={"vm:1"}):  # it holds nothing while it waits
        pass
    await second.release()
    async with asyncio.timeout(5):
        await task
    await nothing_left(onlooker)


async def test_many_waiters_for_crossing_sets_of_keys_all_get_them(
    a: Engine, b: Engine, onlooker: Session
) -> None:
    inside: dict[str, int] = {}

    async def one(engine: Engine, number: int) -> None:
        keys = {f"vm:{number % 5}", f"vm:{(number * 3 + 1) % 5}"}
        async with engine.locks.acquire(exclusive=keys, shared={"host:1"}, wait=FOREVER):
            assert not keys & inside.keys()
            inside.update(dict.fromkeys(keys, number))
            await asyncio.sleep(0)
            for key in keys:
                del inside[key]

    async with asyncio.timeout(60):
        await asyncio.gather(*(one((a, b)[n % 2], n) for n in range(60)))
    await nothing_left(onlooker)


async def test_who_waits_goes_on_waiting_over_a_break_of_the_connection(
    zookeeper: LocalServer, settings: SessionSettings, a: Engine, onlooker: Session
) -> None:
    link = zookeeper.link()
    async with engine_on(settings_for(link.hosts, settings.cluster, timeout_seconds=8.0), "shaky") as shaky:

        async def one() -> None:
            async with shaky.locks.acquire(exclusive={"vm:1"}, wait=FOREVER):
                pass

        async with a.locks.acquire(exclusive={"vm:1"}):
            task = asyncio.create_task(one())
            await waiting(a.locks, "vm:1", ["shaky"])
            link.sever()
            async with asyncio.timeout(5):
                while shaky.session.connected:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        link.thaw()
        async with asyncio.timeout(20):
            await task
    await nothing_left(onlooker)
