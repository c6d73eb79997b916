"""How soon singletons are led when engines start and when one dies; ours beside kazoo's Election.

Three members, each a process of its own with its own session, stand for the same singletons on one
private ZooKeeper (tick 500 ms). Ours run the engine's own runner: lines, standings, duties told. Every
member logs when it begins to lead what (CLOCK_BOOTTIME, which all processes share). A member of ours
that is killed has its session closed at once, as the supervisor does; kazoo has none, and waits for the
session to end. Prints `name: value unit`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

from kazoo.client import KazooClient

from engine.clock import boottime
from engine.coordination.closing import close_session
from engine.coordination.identity import SessionIdentity
from engine.coordination.local import LocalServer
from engine.coordination.session import SessionSettings, open_session
from engine.plugin import EngineId, Leadership, PluginContext, Singleton
from engine.processes import leashed
from engine.service import GC_THRESHOLDS
from engine.singletons.loading import Catalogue, SingletonPlugin
from engine.singletons.runner import SingletonRunner
from engine.testing.singletons import RecordedEvents, context

SESSION_SECONDS = 4.0
DEADLINE_SECONDS = 60.0
MEMBERS = ("a", "b", "c")


@dataclass(frozen=True, slots=True)
class Setup:
    """What one round is run with; handed to the members as JSON."""

    hosts: str
    tick_ms: int
    cluster: str
    singletons: int

    def names(self) -> list[str]:
        return [f"duty_{number:03d}" for number in range(self.singletons)]


# --- members, each in a process of its own ------------------------------------------------------------


def tell(event: str, **more: object) -> None:
    """One JSON line an event, on standard output."""
    sys.stdout.write(json.dumps({"t": boottime(), "event": event, **more}) + "\n")
    sys.stdout.flush()


class Telling(Singleton):
    """Does nothing but tell that it would."""

    name: ClassVar[str]

    async def run(self, leadership: Leadership) -> None:
        tell("lead", name=self.name, token=leadership.token)
        try:
            async for _ in leadership.every(3600):
                pass
        finally:
            tell("leave", name=self.name)


async def our_member(setup: Setup, name: str) -> None:
    plugins = [
        SingletonPlugin(duty, f"bench:{duty}", type("Duty", (Telling,), {"name": duty}), {})
        for duty in setup.names()
    ]

    def contexts(plugin: SingletonPlugin) -> PluginContext:
        return context(plugin.factory, {}, RecordedEvents())

    runner = SingletonRunner(Catalogue(tuple(plugins), ()), engine=EngineId(name), contexts=contexts)
    settings = SessionSettings(
        hosts=setup.hosts,
        cluster=setup.cluster,
        timeout_seconds=SESSION_SECONDS,
        tick_seconds=setup.tick_ms / 1000,
    )
    async with open_session(settings) as session:
        path = session.paths.member(name)
        await session.ensure(session.paths.members)
        await session.create_mine(path, b"{}")
        await session.hold(path)
        identity = session.identity
        tell("ready", session=identity.session_id, password=identity.password.hex())
        async with runner.serving(session, incarnation=1):
            await asyncio.to_thread(sys.stdin.read)


def kazoo_member(setup: Setup, name: str) -> None:
    """One thread an election, as `Election.run` wants it."""
    client = KazooClient(hosts=setup.hosts, timeout=SESSION_SECONDS)
    client.start(30)
    tell("ready")

    def lead(duty: str) -> None:
        tell("lead", name=duty)
        threading.Event().wait()

    for duty in setup.names():
        election = client.Election(f"/{setup.cluster}/{duty}", name)
        threading.Thread(target=election.run, args=(lead, duty), daemon=True).start()
    sys.stdin.read()


# --- what the parent makes of it ----------------------------------------------------------------------


@dataclass
class Process:
    name: str
    child: subprocess.Popen[str]
    lines: list[dict[str, object]] = field(default_factory=list)

    def at(self, event: str) -> float:
        return next(float(str(line["t"])) for line in self.lines if line["event"] == event)


class Fleet:
    """The members of one round, started together."""

    def __init__(self, setup: Setup, kind: str) -> None:
        self._setup = setup
        self._kind = kind
        self.members = {name: self._start(name) for name in MEMBERS}

    def _start(self, name: str) -> Process:
        arguments = [sys.executable, str(Path(__file__).resolve()), "--member", self._kind, name]
        child = subprocess.Popen(
            leashed([*arguments, json.dumps(asdict(self._setup))]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        process = Process(name, child)
        threading.Thread(target=self._read, args=(process,), name=f"log of {name}").start()
        return process

    def _read(self, process: Process) -> None:
        assert process.child.stdout is not None
        for line in process.child.stdout:
            process.lines.append(json.loads(line))

    def leads(self, *, since: float = 0.0) -> dict[str, tuple[float, str]]:
        """The latest beginning of each singleton, and who."""
        found = [
            (float(str(line["t"])), str(line["name"]), process.name)
            for process in self.members.values()
            for line in list(process.lines)
            if line["event"] == "lead" and float(str(line["t"])) >= since
        ]
        return {name: (at, who) for at, name, who in sorted(found)}

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise SystemExit(f"{self._kind}: not within {DEADLINE_SECONDS:g} s: {what}")
            time.sleep(0.005)

    def all_led(self) -> float:
        """Seconds from when the last member was ready until the last singleton was led; 0 if before."""
        self.until(
            lambda: all(any(line["event"] == "ready" for line in p.lines) for p in self.members.values()),
            "all members are ready",
        )
        self.until(lambda: len(self.leads()) == self._setup.singletons, "every singleton is led")
        ready = max(process.at("ready") for process in self.members.values())
        return max(0.0, max(at for at, _ in self._first_leads()) - ready)

    def first_led(self) -> float:
        """Seconds from when the first member was ready."""
        ready = min(process.at("ready") for process in self.members.values())
        return max(at for at, _ in self._first_leads()) - ready

    def _first_leads(self) -> list[tuple[float, str]]:
        first: dict[str, float] = {}
        for process in self.members.values():
            for line in list(process.lines):
                if line["event"] == "lead":
                    name, at = str(line["name"]), float(str(line["t"]))
                    first[name] = min(at, first.get(name, at))
        return [(at, name) for name, at in first.items()]

    def counts(self) -> Counter[str]:
        return Counter(who for _, who in self.leads().values())

    def spread(self) -> float:
        """Seconds from when the last was ready until each has its share."""
        share = self._setup.singletons // len(MEMBERS)
        self.until(
            lambda: {self.counts()[name] - share for name in MEMBERS} <= {0, 1}, "each leads its share"
        )
        ready = max(process.at("ready") for process in self.members.values())
        return max(at for at, _ in self.leads().values()) - ready

    def kill(self) -> tuple[float, int]:
        """SIGKILL the member that leads most; seconds until all of its are led elsewhere, and how many."""
        victim = self.members[self.counts().most_common(1)[0][0]]
        his = {name for name, (_, who) in self.leads().items() if who == victim.name}
        at = boottime()
        victim.child.kill()
        victim.child.wait()
        if self._kind == "ours":
            ready = next(line for line in victim.lines if line["event"] == "ready")
            password = bytes.fromhex(str(ready["password"]))
            identity = SessionIdentity(int(str(ready["session"])), password, SESSION_SECONDS)
            close_session(self._setup.hosts, identity)
        self.until(lambda: his <= self.leads(since=at).keys(), "what the dead one led is led again")
        return max(self.leads(since=at)[name][0] for name in his) - at, len(his)

    def close(self) -> None:
        for process in self.members.values():
            if process.child.poll() is None:
                process.child.send_signal(signal.SIGKILL)
            process.child.wait()


def say(name: str, value: float, unit: str, note: str = "") -> None:
    print(f"{name}: {value:.1f} {unit}{'  # ' + note if note else ''}", flush=True)


def measure(server: LocalServer, kind: str, arguments: argparse.Namespace) -> None:
    led, first, spread, failover, moved = [], [], [], [], []
    for number in range(arguments.rounds):
        setup = Setup(server.hosts, arguments.tick_ms, f"{kind}-{number}", arguments.singletons)
        with contextlib.closing(Fleet(setup, kind)) as fleet:
            led.append(fleet.all_led())
            first.append(fleet.first_led())
            if kind == "ours" and not arguments.unspread:
                spread.append(fleet.spread())
            seconds, count = fleet.kill()
            failover.append(seconds)
            moved.append(count)
    name = f"election.{arguments.singletons}.{kind}"
    say(f"{name}.all_led_after_third_is_ready", statistics.median(led) * 1e3, "ms", "target=300")
    say(f"{name}.all_led_after_first_is_ready", statistics.median(first) * 1e3, "ms")
    if spread:
        say(f"{name}.each_has_its_share_after", statistics.median(spread) * 1e3, "ms", "settles for 5 s")
    note = f"worst={max(failover) * 1e3:.0f} target=250 moved={statistics.median(moved):.0f}"
    say(f"{name}.failover_after_sigkill", statistics.median(failover) * 1e3, "ms", note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--singletons", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="ours,kazoo", help="comma list of ours, kazoo")
    parser.add_argument("--unspread", action="store_true", help="do not wait for the spread before the kill")
    parser.add_argument("--smoke", action="store_true", help="few singletons, one round, ours only")
    parser.add_argument("--tick-ms", type=int, default=500)
    parser.add_argument("--member", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.member:
        run_member(*arguments.member)
        return
    if arguments.smoke:
        arguments.singletons, arguments.rounds, arguments.only, arguments.unspread = 6, 1, "ours", True
    with (
        tempfile.TemporaryDirectory() as directory,
        LocalServer(Path(directory) / "zookeeper", tick_ms=arguments.tick_ms) as server,
    ):
        for kind in arguments.only.split(","):
            measure(server, kind, arguments)


def run_member(kind: str, name: str, setup: str) -> None:
    gc.set_threshold(*GC_THRESHOLDS)  # as every engine does; for both kinds alike
    logging.basicConfig(level=logging.WARNING)
    if kind == "ours":
        asyncio.run(our_member(Setup(**json.loads(setup)), name))
    else:
        logging.getLogger("kazoo").setLevel(logging.ERROR)
        kazoo_member(Setup(**json.loads(setup)), name)


if __name__ == "__main__":
    main()
