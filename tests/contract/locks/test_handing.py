"""A lock that is handed on: to the first of those who wait, in the transaction that releases it; and what
happens when either of the two is not there any more at that instant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine.coordination.closing import close_session
from engine.coordination.local import LocalServer
from engine.coordination.relay import Link
from engine.coordination.session import Operation, Reason, Rejected, Session, SessionSettings, SetData
from engine.errors import AuthorityLost
from engine.locks.lock import FOREVER, Fence, LockRefused, Mode
from engine.locks.transactions import Heir, adopting, handing, releasing
from tests.contract.coordination.conftest import settings_for, until
from tests.contract.locks.conftest import Engine, engine_on, left, nothing_left, waiting

KEY = "vm:1"


class Waiter:
    """A task that waits for the key, and holds it until it is told to let go."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.got: asyncio.Future[Fence] = asyncio.get_running_loop().create_future()
        self.let_go = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self.engine.locks.acquire(exclusive={KEY}, wait=FOREVER) as fence:
            self.got.set_result(fence)
            await self.let_go.wait()

    async def has_it(self) -> Fence:
        async with asyncio.timeout(10):
            return await self.got

    async def done(self) -> None:
        self.let_go.set()
        async with asyncio.timeout(10):
            await self.task


async def line_of(*engines: Engine) -> list[Waiter]:
    """The first has the lock and knows its heir, the others wait in this order."""
    first = engines[0]
    waiters = []
    async with first.locks.acquire(exclusive={KEY}):
        for engine in engines:
            waiters.append(Waiter(engine))
            await waiting(first.locks, KEY, [waiter.engine.name for waiter in waiters])
    await waiters[0].has_it()
    await heir_is_known(first)
    return waiters


async def heir_is_known(engine: Engine) -> Heir:
    await until(lambda: engine.locks._takings.heirs)
    (heir,) = engine.locks._takings.heirs.values()
    return heir


@pytest.fixture
async def shaky(zookeeper: LocalServer, settings: SessionSettings) -> AsyncIterator[tuple[Engine, Link]]:
    """An engine whose replies a test can swallow."""
    link = zookeeper.link()
    async with engine_on(settings_for(link.hosts, settings.cluster, timeout_seconds=10), "shaky") as engine:
        yield engine, link


def written_by(engine: Engine) -> list[Operation]:
    """What this engine writes from here on."""
    written: list[Operation] = []
    channel = engine.session._channel
    send = channel.send

    def noting(request: Any, **options: Any) -> asyncio.Future[Any]:
        written.extend(getattr(request, "operations", ()))
        return send(request, **options)

    channel.send = noting  # type: ignore[method-assign]
    return written


async def test_the_heir_has_the_lock_without_taking_it(a: Engine, b: Engine, onlooker: Session) -> None:
    first, second = await line_of(a, b)
    before = await first.has_it()
    written = written_by(b)
    first.let_go.set()
    fence = await second.has_it()
    assert fence.handed == {KEY}
    # What it writes, it writes afterwards: it leaves the line, and makes the node its own.
    assert not [operation for operation in written if isinstance(operation, SetData)]
    assert fence.token > before.token
    await b.session.commit(fence.guard())
    (held,) = await a.locks.holders()
    assert (held.nonce, held.engine, held.token) == (fence.nonce, "b", fence.token)
    with pytest.raises(LockRefused, match="vm:1 is locked by a task on b"):
        async with a.locks.acquire(exclusive={KEY}):
            pytest.fail("two have it")
    with pytest.raises(LockRefused, match="vm:1 is locked by a task on b"):
        async with a.locks.acquire(shared={KEY}):
            pytest.fail("two have it")
    await asyncio.gather(first.done(), second.done())
    await nothing_left(onlooker)


async def test_a_lock_goes_along_the_whole_line_with_growing_tokens(
    a: Engine, b: Engine, onlooker: Session
) -> None:
    waiters = await line_of(a, b, b, a, b, a)
    tokens = []
    for waiter in waiters:
        fence = await waiter.has_it()
        tokens.append(fence.token)
        assert [view.nonce for view in await a.locks.holders()] == [fence.nonce]
        assert [other.got.done() for other in waiters].count(True) == len(tokens)
        if waiter is not waiters[-1]:
            await heir_is_known(waiter.engine)
        await waiter.done()
    assert tokens == sorted(set(tokens))
    await nothing_left(onlooker)


async def test_who_only_waits_is_no_holder_for_anybody(a: Engine, b: Engine, onlooker: Session) -> None:
    first, second = await line_of(a, b)
    heir = await heir_is_known(a)
    assert [view.engine for view in await b.locks.holders()] == ["a"]
    assert await b.locks.hold(heir.nonce) is None
    # Not even its own release ends it, or it would free the lock of the one before it.
    steps = releasing(onlooker.paths, heir.nonce, {KEY: Mode.EXCLUSIVE}, version=1)
    with pytest.raises(Rejected):
        await onlooker.commit(*(step.operation for step in steps))
    await asyncio.gather(first.done(), second.done())
    await nothing_left(onlooker)


# --- the heir is gone ---------------------------------------------------------------------------------


async def test_an_heir_that_died_before_is_passed_over(
    zookeeper: LocalServer, settings: SessionSettings, a: Engine, b: Engine, onlooker: Session
) -> None:
    async with engine_on(settings, "dying") as dying:
        first, doomed, third = await line_of(a, dying, b)
        await asyncio.to_thread(close_session, zookeeper.hosts, dying.session.identity)
        await first.done()
        await third.has_it()
        with pytest.raises(AuthorityLost):
            await doomed.task
    await third.done()
    await nothing_left(onlooker)


@pytest.mark.parametrize("how", ["waits", "tries", "shares"])
async def test_the_lock_of_an_heir_that_died_as_he_was_handed_it_is_free(
    how: str, zookeeper: LocalServer, settings: SessionSettings, a: Engine, b: Engine, onlooker: Session
) -> None:
    """Cut off, he does not learn of it, and does not make the node his own: it stays, and nobody has it."""
    link = zookeeper.link()
    async with engine_on(settings_for(link.hosts, settings.cluster, timeout_seconds=10), "dying") as dying:
        waiters = await line_of(a, dying, *([b] if how == "waits" else []))
        identity = dying.session.identity
        link.freeze()
        await waiters[0].done()
        (held,) = await b.locks.holders()
        assert held.engine == "dying"
        assert not any(waiter.got.done() for waiter in waiters[1:])
        await asyncio.to_thread(close_session, zookeeper.hosts, identity)
        if how == "waits":
            await waiters[2].done()
        elif how == "tries":
            async with b.locks.acquire(exclusive={KEY}) as fence:
                assert fence.token > held.token
        else:
            async with b.locks.acquire(shared={KEY}):
                pass
        link.sever()
        waiters[1].task.cancel()
        await asyncio.wait([waiters[1].task])
    await only_an_empty_line_is_left(onlooker)


async def only_an_empty_line_is_left(onlooker: Session) -> None:
    """Where the last one in a line died, ZooKeeper itself removes the container, within a minute."""
    found = ["?"]
    async with asyncio.timeout(10):
        while found not in ([], [f"waits/{KEY}"]):
            found = await left(onlooker)


async def test_two_who_find_the_lock_of_a_dead_heir_do_not_both_get_it(
    zookeeper: LocalServer, settings: SessionSettings, a: Engine, b: Engine, onlooker: Session
) -> None:
    async with engine_on(settings, "dying") as dying:
        first, doomed = await line_of(a, dying)
        await handed_to_the_dead(zookeeper, first, doomed)
        path = onlooker.paths.lock(KEY)
        node = await onlooker.get(path)
        assert node is not None
        assert (node.stat.version, node.data.decode()) == (2, next(iter(await onlooker.children(path))))
        got = await asyncio.gather(
            *(engine.locks.lock(exclusive={KEY}).acquire(blocking=False) for engine in (a, b) * 5)
        )
        assert got.count(True) == 1


async def handed_to_the_dead(zookeeper: LocalServer, first: Waiter, doomed: Waiter) -> None:
    """In one transaction by hand: what the release would send, when the heir is about to die."""
    heir, session = await heir_is_known(first.engine), first.engine.session
    fence = await first.has_it()
    doomed.engine.session._channel.silence()
    steps = releasing(session.paths, fence.nonce, fence.modes, version=fence.version, handed=fence.handed)
    await session.commit(*(step.operation for step in steps), *handing(session.paths, heir))
    await asyncio.to_thread(close_session, zookeeper.hosts, doomed.engine.session.identity)
    await first.done()


async def test_the_adopted_lock_of_an_heir_that_died_is_free_for_the_next(
    zookeeper: LocalServer, settings: SessionSettings, a: Engine, b: Engine, onlooker: Session
) -> None:
    async with engine_on(settings, "dying") as dying:
        first, doomed, third = await line_of(a, dying, b)
        await first.done()
        fence = await doomed.has_it()
        child = f"{onlooker.paths.lock(KEY)}/{fence.nonce}"
        async with asyncio.timeout(10):
            while (stat := await onlooker.exists(child)) is None or not stat.ephemeral_owner:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        await asyncio.to_thread(close_session, zookeeper.hosts, dying.session.identity)
        await third.has_it()
        with pytest.raises(AuthorityLost):
            await doomed.task
    await third.done()
    await nothing_left(onlooker)


@pytest.mark.parametrize("turns", range(0, 12, 2))
async def test_an_heir_that_is_cancelled_as_he_is_handed_the_lock_lets_go_of_it(
    turns: int, a: Engine, b: Engine, onlooker: Session
) -> None:
    first, second, third = await line_of(a, b, a)
    first.let_go.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    second.task.cancel()
    await asyncio.wait([second.task])
    await third.done()
    await first.done()
    await nothing_left(onlooker)


async def test_an_heir_who_is_gone_refuses_nobody_else_of_the_group(a: Engine, onlooker: Session) -> None:
    first, second = await line_of(a, a)
    heir = await heir_is_known(a)
    second.task.cancel()
    await asyncio.wait([second.task])
    async with asyncio.timeout(10):
        while await onlooker.exists(onlooker.paths.hold(heir.nonce)) is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def other(number: int) -> None:
        async with a.locks.acquire(exclusive={f"vm:other-{number}"}):
            pass

    others = [asyncio.create_task(other(number)) for number in range(20)]
    await asyncio.gather(first.done(), *others)
    async with a.locks.acquire(exclusive={KEY}):
        pass
    await nothing_left(onlooker)


# --- lost replies -------------------------------------------------------------------------------------


async def test_a_release_whose_reply_was_lost_has_handed_the_lock_on_once(
    shaky: tuple[Engine, Link], b: Engine, onlooker: Session
) -> None:
    engine, link = shaky
    first, second = await line_of(engine, b)
    link.mute()
    first.let_go.set()
    fence = await second.has_it()
    link.reset()
    link.thaw()
    await first.done()
    await engine.session.wait_connected(10)
    await engine.session.sync(engine.session.paths.root)
    fence.check()
    await b.session.commit(fence.guard())
    assert [view.nonce for view in await b.locks.holders()] == [fence.nonce]
    await second.done()
    await nothing_left(onlooker)


async def test_an_heir_that_does_not_hear_of_it_finds_out_when_he_is_back(
    shaky: tuple[Engine, Link], a: Engine, onlooker: Session
) -> None:
    engine, link = shaky
    first, second = await line_of(a, engine)
    link.mute()
    await first.done()
    assert [view.engine for view in await a.locks.holders()] == ["shaky"]
    link.reset()
    link.thaw()
    fence = await second.has_it()
    assert [view.token for view in await a.locks.holders()] == [fence.token]
    await second.done()
    await nothing_left(onlooker)


async def test_a_place_whose_reply_was_lost_may_be_handed_the_lock_all_the_same(
    shaky: tuple[Engine, Link], a: Engine, b: Engine, onlooker: Session
) -> None:
    engine, link = shaky
    first, between = await line_of(a, b)
    with pytest.raises(LockRefused):  # so that the next one goes to the line at once
        async with engine.locks.acquire(exclusive={KEY}):
            pytest.fail("two have it")
    link.mute()
    second = Waiter(engine)
    await waiting(a.locks, KEY, ["b", "shaky"])
    third = Waiter(a)
    await waiting(a.locks, KEY, ["b", "shaky", "a"])
    await first.done()
    await between.has_it()
    assert (await heir_is_known(b)).key == KEY
    await between.done()
    assert [view.engine for view in await a.locks.holders()] == ["shaky"]
    link.reset()
    link.thaw()
    await second.done()
    await third.done()
    await nothing_left(onlooker)


# --- late transactions, and force -----------------------------------------------------------------------


async def test_whatever_of_a_handing_comes_late_fails_as_a_whole(
    a: Engine, b: Engine, onlooker: Session
) -> None:
    first, second, third = await line_of(a, b, a)
    heir, paths = await heir_is_known(a), onlooker.paths
    fence = await first.has_it()
    steps = releasing(paths, fence.nonce, fence.modes, version=fence.version, handed=fence.handed)
    handing_on = [*(step.operation for step in steps), *handing(paths, heir)]
    await first.done()
    received = await second.has_it()
    await heir_is_known(b)
    steps = releasing(paths, heir.nonce, received.modes, version=1, handed={KEY})
    own_release = [step.operation for step in steps]
    await second.done()
    last = await third.has_it()
    async with asyncio.timeout(10):
        while len(before := await left(onlooker)) != 3:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    for late in (handing_on, own_release, adopting(paths, heir.nonce, KEY), handing(paths, heir)):
        for session in (a.session, b.session, onlooker):
            with pytest.raises(Rejected) as refused:
                await session.commit(*late)
            assert refused.value.reason in (Reason.ABSENT, Reason.EXISTS)
    assert await left(onlooker) == before
    last.check()
    await third.done()
    await nothing_left(onlooker)


async def test_a_handed_lock_is_removed_by_force_like_any_other(
    a: Engine, b: Engine, onlooker: Session
) -> None:
    first, second = await line_of(a, b)
    await first.done()
    await second.has_it()
    (held,) = await a.locks.holders()
    assert await a.locks.release_by_force(held)
    with pytest.raises(AuthorityLost, match="released by force"):
        async with asyncio.timeout(10):
            await second.task
    await nothing_left(onlooker)


async def test_a_wrong_guess_of_how_a_lock_was_had_still_ends_all_of_it(
    a: Engine, b: Engine, onlooker: Session
) -> None:
    first, second = await line_of(a, b)
    await first.done()
    received = await second.has_it()
    assert received.handed == {KEY}
    assert await a.locks._releases.end(received.nonce, received.modes, version=1)
    second.task.cancel()
    await asyncio.wait([second.task])
    assert await a.locks.lock(exclusive={KEY}).acquire(blocking=False)
    (held,) = await a.locks.holders()
    assert await b.locks._releases.end(held.nonce, held.modes, version=0, handed={KEY})
    await nothing_left(onlooker)
