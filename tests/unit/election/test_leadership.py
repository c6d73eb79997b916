from __future__ import annotations

import asyncio

import pytest

from engine.coordination.tokens import token_of
from engine.election.leadership import HeldLeadership
from engine.errors import AuthorityLost
from engine.testing.singletons import SwitchedAuthority


class Clock:
    """Stands still but for the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def held(
    clock: Clock | None = None,
    *,
    authority: SwitchedAuthority | None = None,
    lost: asyncio.Event | None = None,
) -> HeldLeadership:
    return HeldLeadership(
        authority or SwitchedAuthority(),
        name="duty",
        token=1,
        lost=lost or asyncio.Event(),
        why=lambda: "its node is gone",
        clock=clock or Clock(),
    )


def test_tokens_order_first_by_incarnation_then_by_czxid() -> None:
    assert token_of(1, 2) < token_of(1, 3) < token_of(2, 1)
    assert token_of(2, 5) == 2 << 48 | 5


@pytest.mark.parametrize("czxid", [-1, 1 << 48])
def test_a_czxid_that_does_not_fit_is_refused_instead_of_wrapping(czxid: int) -> None:
    with pytest.raises(ValueError, match="48 bits"):
        token_of(1, czxid)


async def test_it_refuses_from_the_instant_its_node_is_gone() -> None:
    lost = asyncio.Event()
    leadership = held(lost=lost)
    leadership.check()
    lost.set()
    with pytest.raises(AuthorityLost, match="its node is gone"):
        leadership.check()
    assert leadership.remaining_seconds() == 0
    assert leadership.ended.is_set()


async def test_the_first_reason_stays() -> None:
    leadership = held()
    leadership.end("first")
    leadership.end("second")
    assert leadership.reason == "first"


async def test_the_first_beat_comes_at_once() -> None:
    beats = held().every(3600)
    assert await asyncio.wait_for(anext(beats), 5) == 0
    await beats.aclose()  # type: ignore[attr-defined]


async def test_missed_beats_are_skipped_and_the_rate_stays_fixed() -> None:
    clock = Clock()
    beats = held(clock).every(10)
    assert await anext(beats) == 0
    clock.now += 25  # beats 1 and 2 are missed
    waiting = asyncio.ensure_future(anext(beats))
    done, _ = await asyncio.wait({waiting}, timeout=0.01)
    assert not done, "beat 3 is due at 30, and it is 25"
    waiting.cancel()

    clock = Clock()
    beats = held(clock).every(10)
    assert await anext(beats) == 0
    clock.now += 30
    assert await asyncio.wait_for(anext(beats), 5) == 3


async def test_beats_come_at_their_rate() -> None:
    leadership = HeldLeadership(SwitchedAuthority(), name="d", token=1, lost=asyncio.Event(), why=str)
    loop = asyncio.get_running_loop()
    started = loop.time()
    async for beat in leadership.every(0.02):
        if beat >= 5:
            break
    assert loop.time() - started + 0.001 >= 0.1


async def test_waiting_for_a_beat_ends_with_the_leadership() -> None:
    leadership = held()
    beats = leadership.every(3600)
    await anext(beats)
    waiting = asyncio.ensure_future(anext(beats))
    await asyncio.sleep(0)
    leadership.end("another engine leads")
    with pytest.raises(AuthorityLost, match="another engine leads"):
        await asyncio.wait_for(waiting, 5)


async def test_a_beat_waits_while_zookeeper_is_away() -> None:
    authority = SwitchedAuthority()
    authority.suspended = True
    waiting = asyncio.ensure_future(anext(held(authority=authority).every(3600)))
    done, _ = await asyncio.wait({waiting}, timeout=0.15)
    assert not done
    authority.suspended = False
    assert await asyncio.wait_for(waiting, 5) == 0


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
async def test_a_rate_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        await anext(held().every(seconds))


async def test_a_beat_that_is_asked_for_comes_at_once_and_the_rate_goes_on_from_there() -> None:
    clock = Clock()
    leadership = held(clock)
    beats = leadership.every(10)
    assert await anext(beats) == 0
    clock.now += 4
    waiting = asyncio.ensure_future(anext(beats))
    await asyncio.sleep(0)
    leadership.hurry()
    assert await asyncio.wait_for(waiting, 5) == 1
    clock.now += 9
    waiting = asyncio.ensure_future(anext(beats))
    done, _ = await asyncio.wait({waiting}, timeout=0.01)
    assert not done, "ten seconds after the beat that was asked for, and it is nine"
    waiting.cancel()


async def test_a_rate_that_changes_while_a_beat_is_waited_for_holds_from_the_beat_before() -> None:
    clock, seconds = Clock(), [3600.0]
    beats = held(clock).every(lambda: seconds[0])
    assert await anext(beats) == 0
    clock.now += 5
    waiting = asyncio.ensure_future(anext(beats))
    done, _ = await asyncio.wait({waiting}, timeout=0.01)
    assert not done
    seconds[0] = 5.0
    assert await asyncio.wait_for(waiting, 10) == 1
    clock.now += 4
    seconds[0] = 3.0
    assert await asyncio.wait_for(anext(beats), 5) == 2


async def test_a_beat_that_is_asked_for_during_a_beat_follows_it() -> None:
    leadership = held()
    beats = leadership.every(3600)
    assert await anext(beats) == 0
    leadership.hurry()
    assert await asyncio.wait_for(anext(beats), 5) == 1


async def test_a_leader_gives_way_between_two_beats_and_not_in_one() -> None:
    leadership = held()
    beats = leadership.every(3600)
    await anext(beats)
    leadership.ask_back("e2 is to have it")
    assert not leadership.ended.is_set()
    leadership.check()
    with pytest.raises(AuthorityLost, match="e2 is to have it"):
        await asyncio.wait_for(anext(beats), 5)
    assert leadership.ended.is_set()


async def test_a_leader_that_waits_for_its_next_beat_gives_way_at_once() -> None:
    leadership = held()
    beats = leadership.every(3600)
    await anext(beats)
    waiting = asyncio.ensure_future(anext(beats))
    await asyncio.sleep(0)
    leadership.ask_back("e2 is to have it")
    with pytest.raises(AuthorityLost, match="e2 is to have it"):
        await asyncio.wait_for(waiting, 5)


async def test_a_leader_without_beats_gives_way_at_once() -> None:
    leadership = held()
    leadership.ask_back("it is paused")
    assert leadership.reason == "it is paused"


async def test_a_request_to_give_way_can_be_taken_back() -> None:
    leadership = held()
    beats = leadership.every(0.001)
    await anext(beats)
    leadership.ask_back("e2 is to have it")
    leadership.ask_back("")
    await asyncio.sleep(0)
    assert not leadership.ended.is_set()
    await beats.aclose()  # type: ignore[attr-defined]


async def test_a_guard_is_given_only_while_it_leads() -> None:
    leadership = held()
    assert leadership.guard().token == 1
    leadership.end("another engine leads")
    with pytest.raises(AuthorityLost):
        leadership.guard()


async def test_a_thread_may_ask_and_ends_nothing() -> None:
    authority = SwitchedAuthority()
    leadership = held(authority=authority)
    await asyncio.to_thread(leadership.check)
    authority.suspended = True
    with pytest.raises(AuthorityLost):
        await asyncio.to_thread(leadership.check)
    assert not leadership.ended.is_set()
    authority.suspended = False
    leadership.end("another engine leads")
    with pytest.raises(AuthorityLost, match="another engine leads"):
        await asyncio.to_thread(leadership.check)
    assert await asyncio.to_thread(leadership.stopping.wait, 60)
