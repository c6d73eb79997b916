"""Locks: ours beside kazoo's Lock, ReadLock and WriteLock, and tooz's, on one private ZooKeeper.

Each peer is used as its documentation says, through a client of its own in this process; rounds
alternate, where it can be done run by run, and the value is the median. The raw floor is one create
plus one delete through the very client that our locks use. Prints `name: value unit`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import statistics
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kazoo.client import KazooClient
from tooz import coordination as tooz

from engine.clock import utcnow
from engine.coordination.local import LocalServer
from engine.coordination.membership import Member, join
from engine.coordination.session import Session, SessionSettings, open_session
from engine.locks.lock import FOREVER, LockRefused, Locks
from engine.plugin import EngineId

SESSION_SECONDS = 10.0
TASKS = 16
WAITERS = 10
KEYS = 10


@dataclass
class Figures:
    """Seconds of single runs, by name."""

    taken: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, seconds: float) -> None:
        self.taken.setdefault(name, []).append(seconds)

    def median(self, name: str) -> float:
        return statistics.median(self.taken[name])


@contextlib.asynccontextmanager
async def ours(server: LocalServer, name: str) -> AsyncIterator[tuple[Session, Locks]]:
    settings = SessionSettings(
        hosts=server.hosts,
        cluster="bench",
        timeout_seconds=SESSION_SECONDS,
        tick_seconds=server.tick_seconds,
    )
    member = Member(
        engine=EngineId(name),
        address="127.0.0.1",
        pid=1,
        version="0",
        started=utcnow(),
        algorithm=1,
        shards=1,
        partitioner="cooperative",
    )
    async with open_session(settings) as session, join(session, member):
        yield session, Locks(session, engine=name, incarnation=1)


@contextlib.contextmanager
def kazoo_on(server: LocalServer) -> Iterator[Any]:
    client = KazooClient(hosts=server.hosts, timeout=SESSION_SECONDS)
    client.start()
    try:
        yield client
    finally:
        client.stop()
        client.close()


@contextlib.contextmanager
def tooz_on(server: LocalServer) -> Iterator[Any]:
    coordinator = tooz.get_coordinator(f"zookeeper://{server.hosts}", b"bench")
    coordinator.start(start_heart=False)
    try:
        yield coordinator
    finally:
        coordinator.stop()


# --- one at a time ------------------------------------------------------------------------------------


async def timed(figures: Figures, name: str, count: int, once: Callable[[], Awaitable[object]]) -> None:
    for _ in range(count):
        began = time.perf_counter()
        await once()
        figures.add(name, time.perf_counter() - began)


def timed_plainly(figures: Figures, name: str, count: int, once: Callable[[], object]) -> None:
    for _ in range(count):
        began = time.perf_counter()
        once()
        figures.add(name, time.perf_counter() - began)


async def our_singles(server: LocalServer, figures: Figures, count: int) -> None:
    async with ours(server, "one") as (session, locks), ours(server, "two") as (other, others):
        path = f"{session.paths.root}/floor"

        async def floor() -> None:
            await session.create(path, ephemeral=True)
            await session.delete(path)

        async def exclusive() -> None:
            async with locks.acquire(exclusive={"vm:1"}):
                pass

        async def shared() -> None:
            async with locks.acquire(shared={"vm:1"}):
                pass

        async def refused() -> None:
            with contextlib.suppress(LockRefused):
                async with others.acquire(exclusive={"vm:held"}):
                    raise SystemExit("two have the lock")

        await exclusive()
        with kazoo_on(server) as client:
            kazoos = client.Lock("/kazoo/lock")
            for _ in range(count):  # in turns: whatever else the machine does befalls them alike
                await timed(figures, "floor", 1, floor)
                await timed(figures, "exclusive.ours", 1, exclusive)
                timed_plainly(figures, "exclusive.kazoo", 1, taking(kazoos))
            await ten_keys(locks, client, figures, count // 4)
        await timed(figures, "shared.ours", count, shared)
        for _ in range(count // 4):
            async with locks.acquire(exclusive={"vm:held"}):
                others = Locks(other, engine="two", incarnation=1)
                await timed(figures, "refused_for_the_first_time.ours", 1, refused)
        async with locks.acquire(exclusive={"vm:held"}):
            await timed(figures, "refused.ours", count, refused)


def taking(lock: Any) -> Callable[[], None]:
    def once() -> None:
        with lock:
            pass

    return once


async def ten_keys(locks: Locks, client: Any, figures: Figures, count: int) -> None:
    ten = frozenset(f"vm:{n}" for n in range(KEYS))
    kazoos = [client.Lock(f"/kazoo/{n}") for n in range(KEYS)]

    async def many() -> None:
        async with locks.acquire(exclusive=ten):
            pass

    def one_by_one() -> None:
        for one in kazoos:
            one.acquire()
        for one in kazoos:
            one.release()

    for _ in range(count):
        await timed(figures, "ten_keys.ours", 1, many)
        timed_plainly(figures, "ten_keys.kazoo", 1, one_by_one)


def kazoo_singles(server: LocalServer, figures: Figures, count: int) -> None:
    with kazoo_on(server) as client, kazoo_on(server) as other:
        for name, lock in (
            ("exclusive.kazoo_WriteLock", client.WriteLock("/kazoo/rw")),
            ("shared.kazoo_ReadLock", client.ReadLock("/kazoo/rw")),
        ):
            with lock:
                pass
            timed_plainly(figures, name, count, taking(lock))
        refused = other.Lock("/kazoo/lock")
        with client.Lock("/kazoo/lock"):
            timed_plainly(figures, "refused.kazoo", count // 2, lambda: refused.acquire(blocking=False))


def tooz_singles(server: LocalServer, figures: Figures, count: int) -> None:
    with tooz_on(server) as coordinator:
        lock = coordinator.get_lock(b"bench")

        def once() -> None:
            with lock:
                pass

        once()
        timed_plainly(figures, "exclusive.tooz", count, once)


# --- many at once -------------------------------------------------------------------------------------


async def our_crowd(server: LocalServer, figures: Figures, each: int) -> None:
    async with ours(server, "one") as (_, locks):

        async def one(number: int) -> None:
            for _ in range(each):
                async with locks.acquire(exclusive={f"vm:{number}"}):
                    pass

        await asyncio.gather(*(one(n) for n in range(TASKS)))
        began = time.perf_counter()
        await asyncio.gather(*(one(n) for n in range(TASKS)))
        figures.add("crowd.ours", (time.perf_counter() - began) / (each * TASKS))


def kazoo_crowd(server: LocalServer, figures: Figures, each: int) -> None:
    with kazoo_on(server) as client:

        def one(number: int) -> None:
            lock = client.Lock(f"/kazoo/crowd-{number}")
            for _ in range(each):
                with lock:
                    pass

        for number in range(TASKS):
            client.ensure_path(f"/kazoo/crowd-{number}")
        threads = [threading.Thread(target=one, args=(n,)) for n in range(TASKS)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        figures.add("crowd.kazoo", (time.perf_counter() - began) / (each * TASKS))


# --- from one to the next -----------------------------------------------------------------------------

HOLD_SECONDS = 0.02
"""Long enough for the one before to be back in the line."""


async def our_handoffs(server: LocalServer, figures: Figures, count: int) -> None:
    async with ours(server, "one") as (_, locks), ours(server, "two") as (_, others):
        released_at: list[float] = []

        async def one(mine: Locks) -> None:
            while len(released_at) < count:
                async with mine.acquire(exclusive={"vm:1"}, wait=FOREVER):
                    now = time.perf_counter()
                    if released_at:
                        figures.add("handoff.ours", now - released_at[-1])
                    await asyncio.sleep(HOLD_SECONDS)
                    released_at.append(time.perf_counter())

        await asyncio.gather(*(one((locks, others)[n % 2]) for n in range(WAITERS + 1)))


def kazoo_handoffs(server: LocalServer, figures: Figures, count: int) -> None:
    with kazoo_on(server) as client, kazoo_on(server) as other:
        released_at: list[float] = []

        def one(mine: Any) -> None:
            lock = mine.Lock("/kazoo/handoff")
            while len(released_at) < count:
                with lock:
                    now = time.perf_counter()
                    if released_at:
                        figures.add("handoff.kazoo", now - released_at[-1])
                    time.sleep(HOLD_SECONDS)
                    released_at.append(time.perf_counter())

        threads = [threading.Thread(target=one, args=((client, other)[n % 2],)) for n in range(WAITERS + 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


# --- told ---------------------------------------------------------------------------------------------


def say(name: str, value: float, unit: str) -> None:
    print(f"locks.{name}: {value:.4g} {unit}", flush=True)


def say_all(figures: Figures) -> None:
    for name in sorted(figures.taken):
        say(name, figures.median(name) * 1e3, "ms")
    median = figures.median
    say("crowd.ours.rate", 1 / median("crowd.ours"), "lock+unlock/s")
    say("crowd.kazoo.rate", 1 / median("crowd.kazoo"), "lock+unlock/s")
    say("exclusive.of_the_floor", median("exclusive.ours") / median("floor"), "times (at most 1.2)")
    for peer, target in (("kazoo", 1.5), ("kazoo_WriteLock", 0), ("tooz", 0)):
        ratio = median(f"exclusive.{peer}") / median("exclusive.ours")
        say(
            f"exclusive.ratio_to_{peer}",
            ratio,
            f"times faster (at least {target})" if target else "times faster",
        )
    say(
        "shared.ratio_to_kazoo_ReadLock",
        median("shared.kazoo_ReadLock") / median("shared.ours"),
        "times faster",
    )
    for what, target in (("ten_keys", 12), ("refused", 3), ("crowd", 5), ("handoff", 1)):
        ratio = median(f"{what}.kazoo") / median(f"{what}.ours")
        say(f"{what}.ratio", ratio, f"times faster (at least {target})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=60, help="of each measure, in each round")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--smoke", action="store_true", help="few of each, one round")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.count, arguments.rounds = 20, 1
    logging.getLogger("kazoo").setLevel(logging.ERROR)
    figures, count = Figures(), arguments.count
    with tempfile.TemporaryDirectory() as directory, LocalServer(Path(directory) / "zookeeper") as server:
        for _ in range(arguments.rounds):
            asyncio.run(our_singles(server, figures, count))
            kazoo_singles(server, figures, count)
            tooz_singles(server, figures, count)
            asyncio.run(our_crowd(server, figures, count))
            kazoo_crowd(server, figures, max(5, count // 5))
            asyncio.run(our_handoffs(server, figures, max(10, count // 4)))
            kazoo_handoffs(server, figures, max(10, count // 4))
        with kazoo_on(server) as client:
            say("left_behind.kazoo", len(client.get_children("/kazoo")), "nodes")
            say("left_behind.ours", len(client.get_children("/engine/bench/locks")), "nodes")
    say_all(figures)


if __name__ == "__main__":
    main()
