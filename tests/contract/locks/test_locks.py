"""Locks of sessions and of commands on a real ZooKeeper: who gets them, who is refused, what stays."""

from __future__ import annotations

import asyncio

import pytest

from engine.coordination.closing import close_session
from engine.coordination.local import LocalServer
from engine.coordination.session import Create, Rejected, Session, SessionSettings
from engine.errors import AuthorityLost, InvalidInput
from engine.locks.keys import Wanted
from engine.locks.lock import FOREVER, AlreadyHeld, LockRefused, Locks, Mode
from tests.contract.coordination.conftest import settings_for
from tests.contract.locks.conftest import INCARNATION, Engine, engine_on, left, nothing_left, waiting


async def test_who_is_refused_is_told_everything_about_the_holder(a: Engine, b: Engine) -> None:
    async with a.locks.acquire(exclusive={"vm:1"}, reason="a test", user="admin@internal") as fence:
        with pytest.raises(LockRefused) as refused:
            async with b.locks.acquire(exclusive={"vm:0", "vm:1"}):
                pytest.fail("two have it")
    error = refused.value
    assert (error.key, error.mode) == ("vm:1", Mode.EXCLUSIVE)
    assert (error.holder.engine, error.holder.command, error.holder.user) == ("a", None, "admin@internal")
    assert error.holder.reason == "a test"
    assert error.holder.since is not None
    assert error.holder.token == fence.token
    assert str(error) == (
        f"vm:1 is locked by a task of admin@internal on a, "
        f"since {error.holder.since:%Y-%m-%d %H:%M:%S} UTC (a test)"
    )


async def test_a_refused_taker_of_many_keys_gets_none_of_them(a: Engine, b: Engine) -> None:
    async with a.locks.acquire(exclusive={"vm:5"}):
        with pytest.raises(LockRefused):
            async with b.locks.acquire(exclusive={"vm:4", "vm:5"}, shared={"host:1"}):
                pytest.fail("two have it")
        async with b.locks.acquire(exclusive={"vm:4", "host:1"}):
            pass


async def test_nothing_is_left_of_released_locks(a: Engine, b: Engine, onlooker: Session) -> None:
    async with a.locks.acquire(exclusive={"vm:1"}, shared={"host:1", "host:2"}):
        async with b.locks.acquire(shared={"host:1"}):
            assert len(await left(onlooker)) == 8
        await asyncio.gather(*(take(engine, shared={"host:2"}) for engine in (a, b) * 10))
    assert await left(onlooker) == []


async def take(engine: Engine, **keys: set[str]) -> int:
    async with engine.locks.acquire(wait=FOREVER, **keys) as fence:  # type: ignore[arg-type]
        return fence.token


async def test_sharers_share_and_exclude_the_exclusive(a: Engine, b: Engine, onlooker: Session) -> None:
    async with a.locks.acquire(shared={"host:1"}):
        async with b.locks.acquire(shared={"host:1"}):
            with pytest.raises(LockRefused) as refused:
                await asyncio.create_task(take_now(b, exclusive={"host:1"}))
        assert refused.value.mode is Mode.SHARED
        assert "host:1 is locked for sharing by a task on" in str(refused.value)
        with pytest.raises(LockRefused) as refused:
            await take_now(b, exclusive={"host:1"})
        assert refused.value.holder.engine == "a"
    async with b.locks.acquire(exclusive={"host:1"}):
        with pytest.raises(LockRefused) as refused:
            await take_now(a, shared={"host:1"})
        assert refused.value.mode is Mode.EXCLUSIVE
    assert await left(onlooker) == []


async def take_now(engine: Engine, **keys: set[str]) -> int:
    async with engine.locks.acquire(**keys) as fence:  # type: ignore[arg-type]
        return fence.token


async def test_later_holders_have_greater_tokens_which_are_their_holds_czxids(a: Engine, b: Engine) -> None:
    tokens = []
    for engine in (a, b) * 5:
        async with engine.locks.acquire(exclusive={"vm:1"}) as fence:
            stat = await engine.session.exists(fence.guard().path)
            assert stat is not None
            assert fence.token == INCARNATION << 48 | stat.czxid
            tokens.append(fence.token)
    assert tokens == sorted(set(tokens))


async def test_tokens_of_a_group_under_load_are_their_holds_czxids(a: Engine, b: Engine) -> None:
    async def one(engine: Engine, number: int) -> None:
        async with engine.locks.acquire(exclusive={f"vm:{number}"}) as fence:
            held = await engine.locks.hold(fence.nonce)
            assert held is not None
            assert held.token == fence.token

    for _ in range(10):
        await asyncio.gather(
            *(one(engine, n) for n in range(20) for engine in (a, b) if n % 2 == (engine is a))
        )


async def test_a_guarded_write_holds_while_the_lock_does_and_never_after(a: Engine, b: Engine) -> None:
    path = f"{a.session.paths.root}/protected"
    async with a.locks.acquire(exclusive={"vm:1"}) as fence:
        await a.session.commit(fence.guard(), Create(path))
    async with b.locks.acquire(exclusive={"vm:1"}):
        with pytest.raises(Rejected):
            await a.session.commit(fence.guard(), Create(f"{path}-late"))
        with pytest.raises(AuthorityLost):
            fence.check()


@pytest.mark.parametrize(
    ("exclusive", "shared", "words"),
    [
        (set(), set(), "both sets are empty"),
        ({"vm:1"}, {"vm:1"}, "exclusively and shared at once"),
        ({"vm:a/b"}, set(), "may not hold '/'"),
        (set(), {"vm:" + "x" * 297}, "at most 200 characters, this one 300"),
        ({"vm"}, set(), "<type>:<id>"),
    ],
)
async def test_what_cannot_be_locked_is_said_in_words(
    a: Engine, exclusive: set[str], shared: set[str], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        await take_now(a, exclusive=exclusive, shared=shared)


async def test_a_task_that_asks_again_for_what_it_has_is_told_so(a: Engine) -> None:
    async with a.locks.acquire(exclusive={"vm:1"}):
        with pytest.raises(AlreadyHeld, match="this task holds vm:1 already"):
            await take(a, exclusive={"vm:1"})


async def test_a_command_that_takes_its_locks_again_is_told_so(
    a: Engine, b: Engine, onlooker: Session
) -> None:
    token = await a.locks.take_for_command("c1", exclusive={"vm:1"}, user="u", reason="run")
    with pytest.raises(AlreadyHeld, match="command c1 holds vm:1 already"):
        await b.locks.take_for_command("c1", exclusive={"vm:1"}, user="u", reason="run", wait=FOREVER)
    with pytest.raises(LockRefused, match="by command c1 of u on a"):
        await b.locks.take_for_command("c2", exclusive={"vm:1"}, user="u", reason="run")
    assert await b.locks.command_token("c1") == token
    held = await b.locks.command_hold("c1")
    assert held is not None
    assert held.covers(Wanted.of({"vm:1"}, ()))
    assert held.covers(Wanted.of((), {"vm:1"}))
    assert not held.covers(Wanted.of({"vm:2"}, ()))
    await b.locks.release_command("c1")
    await a.locks.release_command("c1")
    assert await a.locks.command_token("c1") is None
    assert await left(onlooker) == []


async def test_the_death_of_a_session_frees_its_locks_and_not_those_of_commands(
    zookeeper: LocalServer, settings: SessionSettings, b: Engine, onlooker: Session
) -> None:
    async with engine_on(settings, "dying") as dying:
        held = dying.locks.lock(exclusive={"vm:1"}, shared={"host:1"})
        await held.acquire()
        await dying.locks.take_for_command("c1", exclusive={"vm:2"}, shared={"host:1"}, user="", reason="")
        line = asyncio.create_task(take(dying, exclusive={"vm:2"}))
        await waiting(b.locks, "vm:2", ["dying"])
        next_one = asyncio.create_task(take(b, exclusive={"vm:1"}))
        await waiting(b.locks, "vm:1", ["b"])
        await asyncio.to_thread(close_session, zookeeper.hosts, dying.session.identity)
        async with asyncio.timeout(5):
            await next_one
        with pytest.raises(LockRefused, match="by command c1"):
            await take_now(b, exclusive={"vm:2"})
        with pytest.raises(LockRefused, match="by command c1"):
            await take_now(b, exclusive={"host:1"})
        with pytest.raises(AuthorityLost):
            await line
    await b.locks.release_command("c1")
    # The line for vm:2 had one waiter, who died: ZooKeeper itself removes the container, in a minute.
    assert await left(onlooker) in ([], ["waits/vm:2"])


async def test_the_scope_is_cancelled_when_the_authority_ends(
    zookeeper: LocalServer, settings: SessionSettings
) -> None:
    link = zookeeper.link()
    async with engine_on(settings_for(link.hosts, settings.cluster), "cut-off") as engine:
        fences = []

        async def body() -> None:
            async with asyncio.timeout(10), engine.locks.acquire(exclusive={"vm:1"}) as fence:
                fences.append(fence)
                link.sever()
                await asyncio.Event().wait()

        with pytest.raises(AuthorityLost):
            await body()
        assert fences[0].lost.is_set()
        assert fences[0].remaining_seconds() == 0.0


async def test_a_container_that_a_crash_left_empty_is_replaced(a: Engine, onlooker: Session) -> None:
    await abandoned_container(onlooker, "host:1")
    await abandoned_container(onlooker, "host:2")
    async with a.locks.acquire(exclusive={"host:1"}, shared={"host:2"}):
        node = await onlooker.get(onlooker.paths.lock("host:1"))
        assert node is not None
        assert node.stat.version == 0
    assert await left(onlooker) == []


async def abandoned_container(session: Session, key: str) -> None:
    stat = await session.create(session.paths.lock(key))
    assert (await session.set(session.paths.lock(key), b"", stat.version)).version == 1


async def test_a_cancelled_taker_leaves_nothing(a: Engine, onlooker: Session) -> None:
    await take_now(a, exclusive={"vm:1"})  # from here on a taking is one round trip
    for turns in range(1, 8):
        taker = asyncio.create_task(take(a, exclusive={"vm:1"}, shared={"host:1"}))
        for _ in range(turns):
            await asyncio.sleep(0)
        taker.cancel()
        await asyncio.wait([taker])
    await nothing_left(onlooker)


async def test_the_body_that_is_cancelled_releases(a: Engine, b: Engine, onlooker: Session) -> None:
    inside = asyncio.Event()

    async def body() -> None:
        async with a.locks.acquire(exclusive={"vm:1"}):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await inside.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await take_now(b, exclusive={"vm:1"})
    assert await left(onlooker) == []


async def test_kazoos_verbs_do_what_they_do_there(a: Engine, b: Engine) -> None:
    mine = a.locks.lock(exclusive={"vm:1"})
    other = b.locks.lock(exclusive={"vm:1"})
    assert await mine.acquire()
    assert mine.is_acquired
    assert not await other.acquire(blocking=False)
    with pytest.raises(LockRefused):
        await other.acquire(timeout=0.05)
    queued = asyncio.create_task(other.acquire())
    await waiting(a.locks, "vm:1", ["b"])
    assert await mine.contenders() == ["a", "b"]
    assert await mine.release()
    assert not await mine.release()
    async with asyncio.timeout(5):
        assert await queued
    assert await other.release()
    async with mine as fence:
        fence.check()
    assert not mine.is_acquired


async def test_the_engine_whose_lock_is_removed_by_force_is_fenced_and_told(
    a: Engine, b: Engine, onlooker: Session
) -> None:
    inside: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def body() -> None:
        async with a.locks.acquire(exclusive={"vm:1"}, shared={"host:1"}) as fence:
            inside.set_result(fence)
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await inside
    async with a.locks.acquire(exclusive={"vm:9"}) as bystander:
        (held,) = [view for view in await b.locks.holders() if "vm:1" in view.modes]
        assert await b.locks.release_by_force(held)
        async with asyncio.timeout(5):
            with pytest.raises(AuthorityLost, match="released by force"):
                await task
        bystander.check()
        assert not await b.locks.release_by_force(held)
    assert await left(onlooker) == []


async def test_two_that_are_one_group_do_not_refuse_each_other(a: Engine) -> None:
    """All but one of a group are refused for one key; those with keys of their own get them."""

    async def one(number: int) -> bool:
        try:
            async with a.locks.acquire(exclusive={"vm:hot"} if number % 2 else {f"vm:{number}"}):
                return True
        except LockRefused:
            return False

    outcomes = await asyncio.gather(*(one(n) for n in range(40)))
    assert all(outcomes[::2])
    assert any(outcomes[1::2])


async def test_without_authority_no_lock_of_a_session_is_given(onlooker: Session) -> None:
    locks = Locks(onlooker, engine="api", incarnation=1)
    with pytest.raises(AuthorityLost):
        async with locks.acquire(exclusive={"vm:1"}):
            pytest.fail("no authority")
    await locks.take_for_command("c", exclusive={"vm:1"}, user="", reason="")
    await locks.release_command("c")
