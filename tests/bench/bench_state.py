"""Clustered maps beside kazoo's TreeCache and a plain dict, on one private ZooKeeper.

Ready at start and after a reconnect with nothing changed (time, and packets as the server counts them:
ours include the handshake of the new connection), local reads, a write until it is visible at another
client, a burst, and the lag at a steady rate. The floor of a write is what it cannot do without: one
write, one event, one read, over the same sessions. Rounds alternate. Prints `name: value unit`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kazoo.client import KazooClient
from kazoo.recipe.cache import TreeCache, TreeEvent

from engine.coordination.local import LocalServer
from engine.coordination.session import Session, SessionSettings, open_session
from engine.state.clustered_map import OpenMap
from engine.state.maps import Maps

SESSION_SECONDS = 30.0
BATCH = 100


@dataclass(frozen=True, slots=True)
class Value:
    at: float
    ballast: str = "x" * 60


@dataclass
class Side:
    session: Session
    maps: Maps
    values: OpenMap[Value]


def say(name: str, value: float, unit: str) -> None:
    print(f"{name}: {value:.4g} {unit}", flush=True)


def packets(server: LocalServer) -> int:
    """What the server has received so far, pings included."""
    host, port = server.hosts.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as asking:
        asking.sendall(b"srvr")
        answer = b"".join(iter(lambda: asking.recv(4096), b"")).decode()
    return int(next(line.split()[1] for line in answer.splitlines() if line.startswith("Received")))


@contextlib.asynccontextmanager
async def side(server: LocalServer) -> AsyncIterator[Side]:
    settings = SessionSettings(
        hosts=server.hosts,
        cluster="bench",
        timeout_seconds=SESSION_SECONDS,
        tick_seconds=server.tick_seconds,
    )
    maps = Maps()
    async with open_session(settings) as session, maps.serving(session), maps.open("values", Value) as values:
        yield Side(session, maps, values)


@contextlib.contextmanager
def tree_cache(server: LocalServer, path: str) -> Any:
    """A started TreeCache, how long it took, and a client beside it that writes."""
    client, writer = KazooClient(hosts=server.hosts, timeout=SESSION_SECONDS), KazooClient(hosts=server.hosts)
    client.start()
    writer.start()
    cache, ready = TreeCache(client, path), threading.Event()
    cache.listen(lambda event: ready.set() if event.event_type == TreeEvent.INITIALIZED else None)
    try:
        began, before = time.perf_counter(), packets(server)
        cache.start()
        assert ready.wait(300)
        yield cache, client, writer, time.perf_counter() - began, packets(server) - before
    finally:
        cache.close()
        for each in (client, writer):
            each.stop()
            each.close()


async def fill(one: Side, entries: int) -> None:
    for start in range(0, entries, BATCH):
        keys = [f"k{n:05d}" for n in range(start, min(entries, start + BATCH))]
        await one.values.update_many({key: Value(0.0) for key in keys})


async def starts(server: LocalServer, entries: int, rounds: int) -> list[float]:
    taken: list[float] = []
    for _ in range(rounds):
        settings = SessionSettings(
            hosts=server.hosts,
            cluster="bench",
            timeout_seconds=SESSION_SECONDS,
            tick_seconds=server.tick_seconds,
        )
        maps = Maps()
        async with open_session(settings) as session, maps.serving(session):
            before, began = packets(server), time.perf_counter()
            async with maps.open("values", Value) as values:
                taken.append(time.perf_counter() - began)
                asked = packets(server) - before
                assert len(values) == entries
    say(f"map.start_{entries}", statistics.median(taken) * 1e3, "ms")
    say(f"map.start_{entries}_packets", asked, "requests")
    return taken


def _sets(connected: asyncio.Event) -> Callable[[bool], None]:
    def hear(there: bool) -> None:
        if there:
            connected.set()

    return hear


async def reconnect(server: LocalServer, one: Side, rounds: int) -> float:
    taken: list[float] = []
    asked: list[int] = []
    for _ in range(rounds):
        connected = asyncio.Event()
        unsubscribe = one.session.on_connection_change(_sets(connected))
        before = packets(server)
        one.session._channel.cut()
        await connected.wait()
        began = time.perf_counter()
        while not one.values.current:  # noqa: ASYNC110
            await asyncio.sleep(0)
        taken.append(time.perf_counter() - began)
        asked.append(packets(server) - before)
        unsubscribe()
    say("map.reconnect_unchanged", statistics.median(taken) * 1e3, "ms")
    say("map.reconnect_unchanged_packets", statistics.median(asked), "requests")
    return statistics.median(taken)


def tree_reconnect(server: LocalServer, cache: Any, client: Any) -> None:
    before = packets(server)
    client._connection._socket.shutdown(2)
    while client.connected:
        time.sleep(0.001)
    while not client.connected:
        time.sleep(0.001)
    began = time.perf_counter()
    time.sleep(0.2)
    while cache._outstanding_ops > 0 or not cache._task_queue.empty():
        time.sleep(0.005)
    say("treecache.reconnect_unchanged", (time.perf_counter() - began) * 1e3, "ms")
    say("treecache.reconnect_unchanged_packets", packets(server) - before, "requests")


def reads(one: Side) -> None:
    values, plain = one.values, dict(one.values)
    key = next(iter(plain))

    def per_read(read: Callable[[], object]) -> float:
        runs = []
        for _ in range(30):
            began = time.perf_counter()
            for _ in range(10_000):
                read()
            runs.append((time.perf_counter() - began) / 10_000)
        return statistics.median(runs)

    ours, theirs = per_read(lambda: values[key]), per_read(lambda: plain[key])
    empty = per_read(lambda: None)
    say("map.local_get", (ours - empty) * 1e9, "ns")
    say("dict.local_get", (theirs - empty) * 1e9, "ns")
    say("map.local_get_over_dict", (ours - empty) / max(1e-9, theirs - empty), "x")


async def writes(one: Side, other: Side, rounds: int) -> tuple[float, float]:
    """Medians: until another's map shows it, and the floor."""
    changes = other.values.changes()
    path = f"{one.session.paths.root}/floor"
    await one.session.ensure(path)
    ours: list[float] = []
    floor: list[float] = []
    heard: asyncio.Queue[str] = asyncio.Queue()
    unsubscribe = other.session.on_event(heard.put_nowait)
    for number in range(rounds):
        began = time.perf_counter()
        writing = asyncio.ensure_future(one.values.put("k00000", Value(float(number))))
        change = await anext(changes)
        assert change.new is not None
        ours.append(time.perf_counter() - began)
        await writing
        await other.session.get(path, watch=True)
        while not heard.empty():
            heard.get_nowait()
        began = time.perf_counter()
        writing_raw = asyncio.ensure_future(one.session.set(path, b"%d" % number))
        while await heard.get() != path:
            pass
        await other.session.get(path)
        floor.append(time.perf_counter() - began)
        await writing_raw
    unsubscribe()
    await changes.aclose()
    say("map.write_to_visible", statistics.median(ours) * 1e3, "ms")
    say("floor.write_to_visible", statistics.median(floor) * 1e3, "ms")
    say("map.write_to_visible_over_floor", statistics.median(ours) / statistics.median(floor), "x")
    return statistics.median(ours), statistics.median(floor)


def tree_writes(cache: Any, writer: Any, path: str, rounds: int) -> None:
    seen: list[float] = []
    heard = threading.Event()
    cache.listen(lambda event: heard.set() if event.event_type == TreeEvent.NODE_UPDATED else None)
    for number in range(rounds):
        heard.clear()
        began = time.perf_counter()
        writer.set(f"{path}/k00000", b"%d" % number)
        assert heard.wait(10)
        seen.append(time.perf_counter() - began)
    say("treecache.write_to_visible", statistics.median(seen) * 1e3, "ms")


async def burst(one: Side, other: Side, writes: int) -> None:
    """As many writes as go, then every listener holds the last value of every key."""
    keys = [f"k{n:05d}" for n in range(100)]
    changes = other.values.changes()
    held: dict[str, Value] = {}

    async def listen() -> None:
        async for change in changes:
            assert change.new is not None
            held[change.key] = change.new.value

    listening = asyncio.create_task(listen())
    began = time.perf_counter()
    for number in range(writes // len(keys)):
        await asyncio.gather(*(one.values.put(key, Value(float(number))) for key in keys))
    written = time.perf_counter() - began
    while any(held.get(key) != one.values[key] for key in keys):  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    say("map.burst_writes", writes / written, "writes/s")
    say("map.burst_held_after", (time.perf_counter() - began - written) * 1e3, "ms")
    listening.cancel()
    await asyncio.wait([listening])
    await changes.aclose()


async def steady(one: Side, other: Side, rate: int, seconds: float) -> None:
    """Lag from the call of `put` to the listener, at so many writes a second."""
    changes = other.values.changes()
    lags: list[float] = []

    async def listen() -> None:
        async for change in changes:
            assert change.new is not None
            lags.append(time.perf_counter() - change.new.value.at)

    listening = asyncio.create_task(listen())
    pending: set[asyncio.Task[int]] = set()
    began, sent = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < seconds:
        while sent < elapsed * rate:
            task = asyncio.create_task(one.values.put(f"k{sent % 1000:05d}", Value(time.perf_counter())))
            pending.add(task)
            task.add_done_callback(pending.discard)
            sent += 1
        await asyncio.sleep(0.001)
    await asyncio.gather(*pending)
    await other.values.fresh()
    await asyncio.sleep(0.1)
    listening.cancel()
    await asyncio.wait([listening])
    lags.sort()
    say("map.steady_writes", sent / (time.perf_counter() - began), "writes/s")
    say("map.steady_lag_p50", lags[len(lags) // 2] * 1e3, "ms")
    say("map.steady_lag_p99", lags[int(len(lags) * 0.99)] * 1e3, "ms")


def tree_figures(server: LocalServer, path: str, entries: int, rounds: int) -> float:
    """How long its start took."""
    with tree_cache(server, path) as (cache, client, writer, took, asked):
        say(f"treecache.start_{entries}", took * 1e3, "ms")
        say(f"treecache.start_{entries}_packets", asked, "requests")
        tree_reconnect(server, cache, client)
        tree_writes(cache, writer, path, rounds)
    return float(took)


async def run(server: LocalServer, entries: int, rounds: int, seconds: float) -> None:
    async with side(server) as one:
        await fill(one, entries)
        path = one.session.paths.map("values")
        ours = statistics.median(await starts(server, entries, max(2, rounds // 20)))
        # In a thread: a loop that is blocked for long cuts its own session off.
        theirs = await asyncio.to_thread(tree_figures, server, path, entries, rounds)
        say("map.start_faster_than_treecache", theirs / ours, "x")
        await one.values.fresh()
        await reconnect(server, one, 3)
        async with side(server) as other:
            await one.values.put("k00000", Value(0.0))  # what the peer wrote there makes no sense to us
            await other.values.fresh()
            reads(one)
            await writes(one, other, rounds)
            await burst(one, other, 2000 if rounds >= 100 else 200)
            await steady(one, other, 1000, seconds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    if arguments.smoke:
        arguments.entries, arguments.rounds, arguments.seconds = 300, 20, 0.5
    with tempfile.TemporaryDirectory() as directory, LocalServer(Path(directory) / "zookeeper") as server:
        asyncio.run(run(server, arguments.entries, arguments.rounds, arguments.seconds))


if __name__ == "__main__":
    main()
