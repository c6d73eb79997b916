"""Whoever lives for a while owns its tasks: none outlives it, and none of its duties ends unnoticed."""

from __future__ import annotations

import asyncio

import pytest

from engine.scope import Scope


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_duties_end_with_the_scope_and_work_is_waited_for() -> None:
    done: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0)
        done.append("work")

    async with Scope() as scope:
        scope.keep(for_ever, name="duty")
        task = scope.start(work(), name="work")
    assert task.done()
    assert done == ["work"]
    assert "duty" not in {each.get_name() for each in asyncio.all_tasks()}


@pytest.mark.parametrize("fails", [True, False])
async def test_a_duty_that_fails_or_returns_ends_the_scope_loudly(fails: bool) -> None:
    async def ends() -> None:
        if fails:
            raise ValueError("broken")

    async def live() -> None:
        async with Scope() as scope:
            scope.keep(ends, name="hosts-beat")
            await for_ever()

    with pytest.raises(ExceptionGroup) as found:
        await live()
    (error,) = found.value.exceptions
    assert str(error) == ("broken" if fails else "hosts-beat has returned, and should have gone on")


async def test_work_that_fails_ends_the_scope_and_its_duties() -> None:
    async def fails() -> None:
        raise ValueError("broken")

    async def live() -> None:
        async with Scope() as scope:
            scope.keep(for_ever, name="duty")
            scope.start(fails(), name="work")
            await for_ever()

    with pytest.raises(ExceptionGroup):
        await live()
    assert "duty" not in {each.get_name() for each in asyncio.all_tasks()}
