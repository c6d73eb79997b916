"""Group commit: who waits for the wire shares a transaction, and a refusal of one refuses no other."""

from __future__ import annotations

import asyncio

import pytest

from engine.coordination.operations import Create, Operation, Reason, Rejected, Result
from engine.errors import OutcomeUnknown
from engine.locks.commits import GROUP_OPERATIONS, GroupCommit


class Wire:
    """Carries out creates, once told to; each path once."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.sent: list[list[str]] = []
        self.made: set[str] = set()
        self.lost = False

    def transmit(self, *operations: Operation) -> asyncio.Future[list[Result]]:
        return asyncio.ensure_future(self.commit(*operations))

    async def commit(self, *operations: Operation) -> list[Result]:
        paths = [operation.path for operation in operations]
        self.sent.append(paths)
        zxid = len(self.sent)
        await self.may_answer.wait()
        if self.lost:
            raise OutcomeUnknown("lost")
        for at, path in enumerate(paths):
            if path in self.made or path in paths[:at]:
                raise Rejected(at, Reason.EXISTS, path)
        self.made.update(paths)
        return [Result(path, None, zxid) for path in paths]


async def sent(wire: Wire, count: int) -> None:
    async with asyncio.timeout(5):
        while len(wire.sent) < count:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_what_comes_while_one_is_under_way_goes_together() -> None:
    wire = Wire()
    commits = GroupCommit(wire)
    outcomes = [commits.submit([Create("/a")])]
    await sent(wire, 1)
    outcomes += [commits.submit([Create(f"/{n}"), Create(f"/{n}x")]) for n in range(3)]
    wire.may_answer.set()
    assert await asyncio.gather(*outcomes) == [1, 2, 2, 2]
    assert wire.sent == [["/a"], ["/0", "/0x", "/1", "/1x", "/2", "/2x"]]


async def test_one_that_is_refused_refuses_no_other_and_names_its_own_operation() -> None:
    wire = Wire()
    wire.made = {"/1x"}
    commits = GroupCommit(wire)
    first = commits.submit([Create("/a")])
    await sent(wire, 1)
    outcomes = [commits.submit([Create(f"/{n}"), Create(f"/{n}x")]) for n in range(3)]
    wire.may_answer.set()
    done = await asyncio.gather(first, *outcomes, return_exceptions=True)
    assert done[:2] == [1, 3]
    assert isinstance(done[2], Rejected)
    assert (done[2].index, done[2].path) == (1, "/1x")
    assert done[3] == 5


async def test_two_of_one_group_that_want_the_same_are_decided_in_their_order() -> None:
    wire = Wire()
    commits = GroupCommit(wire)
    commits.submit([Create("/a")])
    await sent(wire, 1)
    outcomes = [commits.submit([Create("/same")]) for _ in range(3)]
    wire.may_answer.set()
    done = await asyncio.gather(*outcomes, return_exceptions=True)
    assert [isinstance(outcome, int) for outcome in done] == [True, False, False]


async def test_a_lost_reply_is_told_to_all_of_the_group() -> None:
    wire = Wire()
    wire.lost = True
    commits = GroupCommit(wire)
    outcomes = [commits.submit([Create(f"/{n}")]) for n in range(3)]
    wire.may_answer.set()
    done = await asyncio.gather(*outcomes, return_exceptions=True)
    assert all(isinstance(outcome, OutcomeUnknown) for outcome in done)


async def test_a_group_stays_below_what_a_transaction_may_carry() -> None:
    wire = Wire()
    wire.may_answer.set()
    commits = GroupCommit(wire)
    outcomes = [commits.submit([Create(f"/{n}"), Create(f"/{n}x")]) for n in range(GROUP_OPERATIONS)]
    await asyncio.gather(*outcomes)
    assert max(len(paths) for paths in wire.sent) <= GROUP_OPERATIONS
    assert sum(len(paths) for paths in wire.sent) == 2 * GROUP_OPERATIONS


async def test_an_outcome_nobody_waits_for_harms_nobody() -> None:
    wire = Wire()
    commits = GroupCommit(wire)
    forgotten = commits.submit([Create("/a")])
    await sent(wire, 1)
    forgotten.cancel()
    kept = commits.submit([Create("/b")])
    wire.may_answer.set()
    assert await kept == 2


async def test_work_that_comes_after_a_pause_is_carried_out_too() -> None:
    wire = Wire()
    wire.may_answer.set()
    commits = GroupCommit(wire)
    for n in range(3):
        assert await commits.submit([Create(f"/{n}")]) == n + 1
        await asyncio.sleep(0)


async def test_a_fault_of_the_wire_is_told_and_leaves_nobody_waiting() -> None:
    class Broken(Wire):
        async def commit(self, *operations: Operation) -> list[Result]:
            await super().commit(*operations)
            raise ZeroDivisionError

    wire = Broken()
    commits = GroupCommit(wire)
    outcomes = [commits.submit([Create(f"/{n}")]) for n in range(2)]
    await sent(wire, 1)
    outcomes.append(commits.submit([Create("/late")]))
    wire.may_answer.set()
    done = await asyncio.gather(*outcomes, return_exceptions=True)
    assert all(isinstance(outcome, ZeroDivisionError) for outcome in done)
    with pytest.raises(ZeroDivisionError):
        await commits.submit([Create("/again")])


async def test_those_who_have_just_been_answered_share_the_next_transaction_with_those_who_waited() -> None:
    """Else the first, who went alone, and all the others would take turns for ever."""
    wire = Wire()
    wire.may_answer.set()
    commits = GroupCommit(wire)

    async def one(number: int) -> None:
        for turn in range(10):
            await commits.submit([Create(f"/{number}-{turn}")])

    await asyncio.gather(*(one(number) for number in range(16)))
    assert [len(paths) for paths in wire.sent] == [1, *[16] * 9, 15]
