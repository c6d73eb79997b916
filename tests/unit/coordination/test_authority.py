"""The lease by itself: a clock that the test sets, no server."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from engine.coordination.authority import SessionAuthority, cancelled_by, lease_seconds
from engine.errors import AuthorityLost, InvalidInput


class Bench:
    def __init__(self, lease: float = 5.0) -> None:
        self.now = 1000.0
        self.connected = True
        self.lost: list[str] = []
        self.authority = SessionAuthority(
            lease=lambda: lease,
            connected=lambda: self.connected,
            on_lost=self.lost.append,
            clock=lambda: self.now,
        )

    def allowed(self) -> bool:
        try:
            self.authority.check()
        except AuthorityLost:
            return False
        return True


def test_the_lease_is_the_timeout_less_tick_heartbeat_and_one_percent() -> None:
    assert lease_seconds(10.0, 2.0, 2.5) == pytest.approx(5.4)
    assert lease_seconds(4.0, 0.5, 1.0) == pytest.approx(2.46)


async def test_it_begins_with_a_write_and_ends_at_the_deadline_counted_from_its_sending() -> None:
    bench = Bench()
    assert not bench.allowed()
    bench.authority.begin(sent_at=999.0)
    assert bench.authority.deadline == 1004.0
    bench.now = 1003.999
    assert bench.allowed()
    assert bench.authority.remaining_seconds() == pytest.approx(0.001)
    bench.now = 1004.0
    assert not bench.allowed()
    assert bench.authority.lost.is_set()
    assert bench.lost == ["no write was answered in time"]


async def test_once_over_nothing_brings_it_back() -> None:
    bench = Bench()
    bench.authority.begin(1000.0)
    bench.now = 1006.0
    assert not bench.allowed()
    bench.authority.renew(1006.0)
    bench.now = 1001.0
    assert not bench.allowed()
    assert bench.authority.remaining_seconds() == 0
    assert len(bench.lost) == 1


async def test_an_answer_to_an_older_write_never_shortens_it() -> None:
    bench = Bench()
    bench.authority.begin(1000.0)
    bench.authority.renew(1003.0)
    bench.authority.renew(1001.0)
    assert bench.authority.deadline == 1008.0


async def test_a_renewal_before_it_has_begun_begins_nothing() -> None:
    bench = Bench()
    bench.authority.renew(1000.0)
    assert not bench.allowed()
    assert not bench.authority.begun


async def test_while_disconnected_it_refuses_without_being_lost() -> None:
    bench = Bench()
    bench.authority.begin(1000.0)
    bench.connected = False
    assert not bench.allowed()
    assert not bench.authority.lost.is_set()
    bench.connected = True
    assert bench.allowed()


async def test_a_timeout_too_short_for_the_tick_is_refused() -> None:
    bench = Bench(lease=-0.1)
    with pytest.raises(InvalidInput, match="too short"):
        bench.authority.begin(1000.0)


async def test_the_timer_notices_the_deadline_by_itself() -> None:
    authority = SessionAuthority(lease=lambda: 0.05, connected=lambda: True)
    from engine.clock import boottime

    authority.begin(boottime())
    async with asyncio.timeout(2):
        await authority.lost.wait()
    assert boottime() >= authority.deadline


async def test_a_scope_ends_with_authority_lost_and_not_with_a_stray_cancellation() -> None:
    bench = Bench()
    bench.authority.begin(1000.0)

    async def act() -> None:
        async with bench.authority.scope():
            asyncio.get_running_loop().call_soon(bench.authority.end, "enough")
            await asyncio.sleep(30)

    with pytest.raises(AuthorityLost, match="enough"):
        await act()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_a_scope_is_not_entered_without_authority() -> None:
    async def act() -> None:
        async with Bench().authority.scope():
            pytest.fail("entered")

    with pytest.raises(AuthorityLost):
        await act()


async def test_a_cancellation_from_outside_stays_one() -> None:
    bench = Bench()
    bench.authority.begin(1000.0)

    async def act() -> None:
        async with bench.authority.scope():
            await asyncio.sleep(30)

    task = asyncio.create_task(act())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_when_both_cancel_the_one_from_outside_wins() -> None:
    lost = asyncio.Event()

    async def act() -> None:
        async with cancelled_by(lost, lambda: "lost"):
            await asyncio.sleep(30)

    task = asyncio.create_task(act())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    lost.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_body_that_ends_as_authority_ends_leaves_no_cancellation_behind() -> None:
    lost = asyncio.Event()

    async def act() -> None:
        async with cancelled_by(lost, lambda: "lost"):
            await asyncio.sleep(0)
            lost.set()

    await act()
    for _ in range(3):
        await asyncio.sleep(0)


async def test_an_error_of_the_body_is_not_hidden() -> None:
    lost = asyncio.Event()

    async def act() -> None:
        async with cancelled_by(lost, lambda: "lost"):
            raise KeyError("mine")

    with pytest.raises(KeyError):
        await act()


async def test_a_body_that_swallows_its_cancellation_still_ends_with_authority_lost() -> None:
    lost = asyncio.Event()

    async def act() -> None:
        async with cancelled_by(lost, lambda: "lost"):
            asyncio.get_running_loop().call_soon(lost.set)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(30)

    with pytest.raises(AuthorityLost):
        await act()


async def test_a_body_that_makes_another_error_of_its_cancellation_leaves_none_behind() -> None:
    """Else whoever acts next in this task takes each of its time-outs for a cancellation."""
    lost = asyncio.Event()

    async def fails_when_cancelled() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("broken")

    async def act() -> None:
        async with cancelled_by(lost, lambda: "lost"), asyncio.TaskGroup() as group:
            group.create_task(fails_when_cancelled())
            asyncio.get_running_loop().call_soon(lost.set)

    with pytest.raises(ExceptionGroup):
        await act()
    me = asyncio.current_task()
    assert me is not None
    assert me.cancelling() == 0
