"""How long shards are without an owner when engines leave, join and die; ours beside kazoo's SetPartitioner.

Three members, each a process of its own with its own session, on one private ZooKeeper (tick 500 ms);
ours also take every shard in one SQLite file, which kazoo's have no counterpart for. Each member
logs what it owns from when to when (CLOCK_BOOTTIME, which all processes share). Prints
`name: value unit`; the value is the median over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import json
import logging
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from kazoo.client import KazooClient

from engine.clock import boottime, utcnow
from engine.coordination.closing import close_session
from engine.coordination.identity import SessionIdentity
from engine.coordination.local import LocalServer
from engine.coordination.membership import Member, join
from engine.coordination.session import SessionSettings, open_session
from engine.db import migrate
from engine.db.database import Database
from engine.plugin import ClusterView, EngineId, MemberView, ShardId, ShardView
from engine.processes import leashed
from engine.service import GC_THRESHOLDS
from engine.sharding.assignment import plan
from engine.sharding.ownership import OwnedShard, Ownership, OwnershipSettings
from engine.sharding.partitioners import Cooperative, PartitionerContext
from engine.sharding.store import EpochStore

SESSION_SECONDS = 4.0
DEADLINE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Setup:
    """What one round is run with; handed to the members as JSON."""

    hosts: str
    tick_seconds: float
    cluster: str
    database: str
    shards: int
    debounce_seconds: float


# --- members, each in a process of its own ------------------------------------------------------------


class Log:
    """One JSON line an event, on standard output."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def tell(self, event: str, shards: Iterable[int] = (), **more: object) -> None:
        line = {"t": boottime(), "event": event, "shards": sorted(shards), **more}
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()


class LoggedWork:
    """Does nothing for its shards but tell that it would."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def adopt(self, shards: Sequence[OwnedShard]) -> None:
        self._log.tell("own", (owned.shard for owned in shards))

    async def release(self, shards: Sequence[OwnedShard]) -> None:
        self._log.tell("drop", (owned.shard for owned in shards))

    def abandon(self, shards: Sequence[OwnedShard]) -> None:
        self._log.tell("drop", (owned.shard for owned in shards))


async def our_member(setup: Setup, name: str, log: Log) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    engine = EngineId(name)
    member = Member(
        engine=engine,
        address="127.0.0.1",
        pid=os.getpid(),
        version="0",
        started=utcnow(),
        algorithm=1,
        shards=setup.shards,
        partitioner="cooperative",
    )
    settings = SessionSettings(
        hosts=setup.hosts,
        cluster=setup.cluster,
        timeout_seconds=SESSION_SECONDS,
        tick_seconds=setup.tick_seconds,
    )
    async with (
        Database(setup.database) as database,
        open_session(settings) as session,
        join(session, member) as membership,
        Ownership(
            session=session,
            membership=membership,
            partitioner=Cooperative(PartitionerContext(engine, session, setup.shards)),
            store=EpochStore(database),
            work=LoggedWork(log),
            shards=setup.shards,
            settings=OwnershipSettings(join_debounce_seconds=setup.debounce_seconds),
        ) as ownership,
    ):
        identity = session.identity
        log.tell("begin", session=identity.session_id, password=identity.password.hex())
        running = asyncio.create_task(ownership.run(), name="ownership")
        await stop.wait()
        await membership.drain()
        await ownership.drain(session_closes=True)
        running.cancel()
        await asyncio.wait([running])
    log.tell("drained")
    await asyncio.to_thread(sys.stdin.read)


def kazoo_member(setup: Setup, name: str, log: Log) -> None:
    """The loop that kazoo's documentation gives, woken by `state_change_event`."""
    changed, stopping = threading.Event(), threading.Event()

    def stop(*_: object) -> None:
        stopping.set()
        changed.set()

    signal.signal(signal.SIGTERM, stop)
    client = KazooClient(hosts=setup.hosts, timeout=SESSION_SECONDS)
    client.start(30)
    log.tell("begin")
    partitioner = client.SetPartitioner(
        f"/{setup.cluster}-kazoo",
        [f"{number:04d}" for number in range(setup.shards)],
        identifier=name,
        time_boundary=1.0,
        state_change_event=changed,
    )
    owned: list[int] = []
    while not stopping.is_set() and not partitioner.failed:
        if partitioner.release:
            log.tell("drop", owned)
            owned = []
            partitioner.release_set()
        elif partitioner.acquired and not owned:
            owned = [int(item) for item in partitioner]
            log.tell("own", owned)
        changed.wait(0.05)
        changed.clear()
    log.tell("drop", owned)
    partitioner.finish()
    client.stop()
    sys.stdin.read()


# --- what the parent makes of it ----------------------------------------------------------------------


@dataclass
class Process:
    """A member and what it has logged."""

    name: str
    child: subprocess.Popen[str]
    lines: list[dict[str, object]] = field(default_factory=list)
    died_at: float | None = None

    def session(self) -> SessionIdentity:
        begin = next(line for line in self.lines if line["event"] == "begin")
        return SessionIdentity(
            int(str(begin["session"])), bytes.fromhex(str(begin["password"])), SESSION_SECONDS
        )


@dataclass(frozen=True, slots=True)
class Span:
    """One member's ownership of one shard; `until` is None while it lasts."""

    shard: int
    owner: str
    since: float
    until: float | None


class Fleet:
    """The members of one round."""

    def __init__(self, setup: Setup, kind: str) -> None:
        self._setup = setup
        self._kind = kind
        self.members: dict[str, Process] = {}
        self._lock = threading.Lock()

    def start(self, name: str) -> float:
        """Start a member; return when it had its session."""
        arguments = [sys.executable, str(Path(__file__).resolve()), "--member", self._kind, name]
        child = subprocess.Popen(
            leashed([*arguments, json.dumps(vars_of(self._setup))]),
            stdin=subprocess.PIPE,  # held open: the end of an interpreter costs more than what is measured
            stdout=subprocess.PIPE,
            text=True,
        )
        process = self.members[name] = Process(name, child)
        threading.Thread(target=self._read, args=(process,), name=f"log of {name}").start()
        self._until(lambda: any(line["event"] == "begin" for line in process.lines))
        return float(str(process.lines[0]["t"]))

    def _read(self, process: Process) -> None:
        assert process.child.stdout is not None
        for line in process.child.stdout:
            with self._lock:
                process.lines.append(json.loads(line))

    def leave(self, name: str) -> float:
        at = boottime()
        self.members[name].child.send_signal(signal.SIGTERM)
        return at

    def kill(self, name: str) -> float:
        """SIGKILL; ours has a supervisor that closes the session of the dead."""
        process = self.members[name]
        at = process.died_at = boottime()
        process.child.kill()
        process.child.wait()
        if self._kind == "ours":
            close_session(self._setup.hosts, process.session())
        return at

    def spans(self) -> list[Span]:
        found: list[Span] = []
        with self._lock:
            for process in self.members.values():
                open_since: dict[int, float] = {}
                for line in process.lines:
                    at, shards = float(str(line["t"])), line["shards"]
                    assert isinstance(shards, list)
                    for shard in shards:
                        if line["event"] == "own":
                            open_since[shard] = at
                        elif shard in open_since:
                            found.append(Span(shard, process.name, open_since.pop(shard), at))
                found += [Span(s, process.name, t, process.died_at) for s, t in open_since.items()]
        return found

    def settled(self, names: str) -> float:
        """Wait until `names` own everything evenly; return when the last shard was taken."""
        self._until(lambda: self._is_divided(names))
        return max(span.since for span in self.spans() if span.until is None)

    def _is_divided(self, names: str) -> bool:
        present = [span for span in self.spans() if span.until is None]
        held = Counter(span.owner for span in present)
        even = len(held) == len(names) and max(held.values()) - min(held.values()) <= 1
        return even and set(held) == set(names) and len(present) == self._setup.shards

    def _until(self, condition: object) -> None:
        assert callable(condition)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            time.sleep(0.2)  # seldom: looking takes the processor from those that are measured
            if time.monotonic() > deadline:
                raise SystemExit(f"{self._kind}: did not settle: {Counter(s.owner for s in self.spans())}")

    def close(self) -> None:
        for process in self.members.values():
            if process.child.poll() is None:
                process.child.kill()
            process.child.wait()


def vars_of(setup: Setup) -> dict[str, object]:
    return {name: getattr(setup, name) for name in setup.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds, but for `moved`."""

    rebalanced: float
    gap_moved: float
    gap_stayed: float
    moved: int
    first: float


def one_round(setup: Setup, kind: str, how: str) -> Outcome:
    fleet = Fleet(setup, kind)
    with contextlib.closing(fleet):
        begun = max([fleet.start(name) for name in "abc"])
        first = fleet.settled("abc") - begun
        before = {span.shard: span.owner for span in fleet.spans() if span.until is None}
        match how:
            case "leave":
                at, names = fleet.leave("c"), "ab"
            case "kill":
                at, names = fleet.kill("c"), "ab"
            case _:
                at, names = fleet.start("d"), "abcd"
        done = fleet.settled(names)
        return judged(fleet.spans(), before, at, done, first)


def judged(spans: list[Span], before: dict[int, str], at: float, done: float, first: float) -> Outcome:
    """The longest time for which a shard was without an owner, of those that moved and those that stayed."""
    gaps: dict[str, float] = {"moved": 0.0, "stayed": 0.0}
    moved = 0
    for shard, owner in before.items():
        mine = sorted((s for s in spans if s.shard == shard), key=lambda span: span.since)
        gap = 0.0
        for earlier, later in itertools.pairwise(mine):
            if earlier.until is None or earlier.until > later.since:
                raise SystemExit(f"shard {shard} had two owners: {earlier} and {later}")
            if later.since > at:
                gap += later.since - max(earlier.until, at)
        kind = "stayed" if mine[-1].owner == owner else "moved"
        moved += kind == "moved"
        gaps[kind] = max(gaps[kind], gap)
    return Outcome(done - at, gaps["moved"], gaps["stayed"], moved, first)


# --- movement, without any server ---------------------------------------------------------------------


def movement(shards: int) -> Iterator[float]:
    """Moved shards relative to the ideal, for each join and each leave from 1 to 10 members and back."""

    def planned(count: int, owners: dict[ShardId, EngineId]) -> dict[ShardId, EngineId]:
        members = tuple(MemberView(EngineId(f"engine-{n}"), 1, False, 1) for n in range(count))
        states = tuple(ShardView(ShardId(n), 0, None, owners.get(ShardId(n)), 0.0) for n in range(shards))
        return dict(plan(ClusterView(members, states)))

    owners = planned(1, {})
    for count in [*range(2, 11), *range(9, 1, -1)]:
        held = Counter(owners.values())
        gone = held.get(EngineId(f"engine-{count}"), 0)
        after = planned(count, owners)
        moved = sum(after[shard] != owner for shard, owner in owners.items())
        yield moved / (gone or shards / count)
        owners = after


def plan_seconds(shards: int, members: int) -> float:
    view = ClusterView(
        tuple(MemberView(EngineId(f"engine-{n}"), 1, False, 1) for n in range(members)),
        tuple(ShardView(ShardId(n), 0, None, None, 0.0) for n in range(shards)),
    )
    plan(view)
    took = []
    for _ in range(20):
        started = time.perf_counter()
        plan(view)
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def say(name: str, value: float, unit: str) -> None:
    print(f"{name}: {value:.4g} {unit}", flush=True)


def say_outcomes(name: str, outcomes: list[Outcome]) -> float:
    rebalanced = statistics.median(outcome.rebalanced for outcome in outcomes)
    say(f"{name}.rebalanced", rebalanced * 1e3, "ms")
    say(f"{name}.gap_of_shards_that_move", max(o.gap_moved for o in outcomes) * 1e3, "ms (longest)")
    say(f"{name}.gap_of_shards_that_stay", max(o.gap_stayed for o in outcomes) * 1e3, "ms (longest)")
    say(f"{name}.moved", statistics.median(o.moved for o in outcomes), "shards")
    return rebalanced


def compare(server: LocalServer, directory: Path, arguments: argparse.Namespace) -> None:
    kinds = ["ours", "kazoo"]
    for how in arguments.changes.split(","):
        took: dict[str, float] = {}
        for kind in kinds:
            outcomes = []
            for number in range(arguments.rounds):
                cluster = f"{kind}-{how}-{number}"
                database = f"sqlite+aiosqlite:///{directory / cluster}.db"
                asyncio.run(migrate.upgrade(database))
                setup = Setup(
                    server.hosts,
                    server.tick_seconds,
                    cluster,
                    database,
                    arguments.shards,
                    arguments.debounce,
                )
                outcomes.append(one_round(setup, kind, how))
            took[kind] = say_outcomes(f"sharding.{arguments.shards}.{how}.{kind}", outcomes)
        say(f"sharding.{arguments.shards}.{how}.ratio", took["kazoo"] / took["ours"], "times faster")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--changes", default="leave,kill,join")
    parser.add_argument("--debounce", type=float, default=1.0, help="our join debounce, in seconds")
    parser.add_argument("--smoke", action="store_true", help="few shards, one round of one change")
    parser.add_argument("--member", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.member:
        kind, name, setup = arguments.member
        run_member(kind, name, Setup(**json.loads(setup)))
        return
    if arguments.smoke:
        arguments.shards, arguments.rounds, arguments.changes, arguments.debounce = 64, 1, "leave", 0.1
    for shards in (256, 1000):
        say(f"sharding.{shards}.movement_relative_to_ideal", max(movement(shards)), "(worst)")
    say("sharding.1000.plan_for_10_members", plan_seconds(1000, 10) * 1e3, "ms")
    with tempfile.TemporaryDirectory() as directory, LocalServer(Path(directory) / "zookeeper") as server:
        compare(server, Path(directory), arguments)


def run_member(kind: str, name: str, setup: Setup) -> None:
    gc.set_threshold(*GC_THRESHOLDS)  # as every engine does; for both kinds alike
    logging.basicConfig(level=logging.WARNING)
    log = Log(sys.stdout)
    if kind == "ours":
        asyncio.run(our_member(setup, name, log))
    else:
        logging.getLogger("kazoo").setLevel(logging.ERROR)
        kazoo_member(setup, name, log)


if __name__ == "__main__":
    main()
