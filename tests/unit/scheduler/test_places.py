"""The bound on runs, which may move."""

from __future__ import annotations

import asyncio

from engine.scheduler.places import Places


async def _stays(places: Places, entered: list[str], name: str, go: asyncio.Event) -> None:
    async with places:
        entered.append(name)
        await go.wait()


async def _settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_than_so_many_are_in_and_those_who_wait_come_in_order() -> None:
    places, entered, go = Places(lambda: 1), list[str](), [asyncio.Event() for _ in range(3)]
    async with asyncio.TaskGroup() as group:
        for name, each in zip("abc", go, strict=True):
            group.create_task(_stays(places, entered, name, each))
        await _settled()
        assert entered == ["a"]
        go[0].set()
        await _settled()
        assert entered == ["a", "b"]
        go[1].set()
        go[2].set()
    assert entered == ["a", "b", "c"]


async def test_a_bound_that_was_raised_lets_those_in_who_wait() -> None:
    most = [1]
    places, entered, go = Places(lambda: most[0]), list[str](), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(_stays(places, entered, name, go))
        await _settled()
        most[0] = 2
        places.look()
        await _settled()
        assert entered == ["a", "b"]
        go.set()


async def test_a_place_is_not_lost_with_whoever_is_cancelled_when_it_is_given() -> None:
    places, entered, go = Places(lambda: 1), list[str](), asyncio.Event()
    first = asyncio.ensure_future(_stays(places, entered, "a", go))
    second = asyncio.ensure_future(_stays(places, entered, "b", go))
    third = asyncio.ensure_future(_stays(places, entered, "c", go))
    await _settled()
    go.set()
    await first  # the second has been given the place, and not had its turn yet
    second.cancel()
    await asyncio.wait_for(third, 5)
    assert "c" in entered
