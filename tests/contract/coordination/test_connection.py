"""Requests that leave in the loop's thread: what the socket cannot take at once, what kazoo's thread sends
meanwhile, and what becomes of them when the connection breaks."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import threading
from collections.abc import Iterator

import pytest
from kazoo.exceptions import ConnectionLoss
from kazoo.protocol.serialization import Exists
from kazoo.protocol.states import KazooState

from engine.coordination.connection import Crossing
from engine.coordination.local import LocalServer
from engine.coordination.session import Create, SessionSettings, SetData, open_session
from engine.errors import OutcomeUnknown, Unavailable
from tests.contract.coordination.conftest import settings_for, until

LARGE = b"x" * 400_000


@pytest.fixture(autouse=True)
def threads_take_turns_often() -> Iterator[None]:
    """So that they meet where they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


async def test_what_the_socket_does_not_take_at_once_follows_whole_and_in_order(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    link = zookeeper.link()
    patient = settings_for(link.hosts, cluster_name, timeout_seconds=10)
    async with open_session(patient) as session:
        path = f"{session.paths.root}/large"
        await session.ensure(path)
        link.freeze()
        # Each names the version that the one before it makes: none may pass another.
        answers = [session.transmit(SetData(path, LARGE, version)) for version in range(60)]
        assert session._channel.client._queue  # more than the two sockets on the way can hold
        link.thaw()
        async with asyncio.timeout(10):
            while not all(answer.done() for answer in answers):
                answers.append(session.transmit(SetData(path, b"small", len(answers))))
                await asyncio.sleep(0)
            await asyncio.gather(*answers)
        node = await session.get(path)
    assert node is not None
    assert (node.data, node.stat.version) == (b"small", len(answers))


async def test_both_threads_send_at_once_and_each_gets_its_own_answers(settings: SessionSettings) -> None:
    async with open_session(settings) as session:
        root = session.paths.root
        await session.ensure(root)
        await asyncio.gather(*(session.commit(Create(f"{root}/{n}", str(n).encode())) for n in range(50)))
        wrong: list[object] = []

        def kazoo_reads() -> None:
            for turn in range(300):
                data, _ = session.recipe_client.get(f"{root}/{turn % 50}")
                if data != str(turn % 50).encode():
                    wrong.append(data)

        threads = [threading.Thread(target=kazoo_reads) for _ in range(2)]
        for thread in threads:
            thread.start()
        turns = 0
        while turns < 20 or any(thread.is_alive() for thread in threads):
            turns += 1
            nodes = await asyncio.gather(*(session.get(f"{root}/{n}") for n in range(50)))
            wrong += [node for n, node in enumerate(nodes) if node is None or node.data != str(n).encode()]
        assert wrong == []


async def test_a_break_fails_all_that_is_under_way_and_the_next_connection_begins_afresh(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    link = zookeeper.link()
    patient = settings_for(link.hosts, cluster_name, timeout_seconds=10)
    async with open_session(patient) as session:
        path = f"{session.paths.root}/set"
        await session.ensure(path)
        for _ in range(5):
            link.mute()
            answers = [session.transmit(SetData(path, b"")) for _ in range(20)]
            link.reset()
            link.thaw()
            async with asyncio.timeout(10):
                done = await asyncio.gather(*answers, return_exceptions=True)
                assert all(isinstance(error, OutcomeUnknown) for error in done)
                await session.wait_connected(10)
                await until(lambda: session.connected)
                await session.commit(SetData(path, b""))


async def test_nothing_is_sent_before_the_credentials_are_accepted(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    """To a node that is closed without them, as soon as each connection stands."""
    link = zookeeper.link()
    settings = settings_for(link.hosts, cluster_name, timeout_seconds=10)
    async with open_session(dataclasses.replace(settings, digest="engine:secret")) as session:
        path = f"{session.paths.root}/closed"
        await session.ensure(path)
        for _ in range(20):
            link.reset()
            await until(lambda: not session.connected)
            while not session.connected:  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert await session.get(path) is not None


async def test_a_request_made_just_as_kazoo_has_given_up_all_others_fails_and_disturbs_no_later_one(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    link = zookeeper.link()
    async with open_session(settings_for(link.hosts, cluster_name, timeout_seconds=10)) as session:
        client = session._channel.client
        told: list[tuple[BaseException | None, bool]] = []

        def too_late(state: str) -> None:
            if state == KazooState.SUSPENDED:
                crossing = Crossing(
                    session._channel._mailbox,
                    client.connection_number,
                    lambda value, error, sent: told.append((error, sent)),
                )
                client.call(Exists("/", None), crossing)

        client.add_listener(too_late)
        link.reset()
        await until(lambda: told)
        await session.wait_connected(10)
        assert await session.exists("/") is not None
        ((error, sent),) = told
        assert isinstance(error, ConnectionLoss)
        assert not sent


async def test_while_the_connection_breaks_nothing_is_lost_without_a_word(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    """Requests at every instant of breaking and connecting: each is answered, or fails."""
    link = zookeeper.link()
    patient = settings_for(link.hosts, cluster_name, timeout_seconds=10)
    async with open_session(patient) as session:
        path = f"{session.paths.root}/set"
        await session.ensure(path)

        def resets() -> None:
            for _ in range(30):
                link.reset()

        breaking = asyncio.ensure_future(asyncio.to_thread(resets))
        answered = failed = 0
        async with asyncio.timeout(30):
            while not breaking.done() or not answered or not failed:
                try:
                    await session.set(path, b"")
                    answered += 1
                except Unavailable:
                    failed += 1
                    await session.wait_connected(10)
                if breaking.done() and not failed:
                    link.reset()
        await breaking
