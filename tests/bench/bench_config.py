"""How long a change of the shared configuration takes to be in force in three engines and two API workers.

Five processes follow one private ZooKeeper as engines and API workers do, each with all the options of the
engine; a sixth session changes a mutable option through the store behind `engine config set`. Each process
tells when its mutate hook was called (CLOCK_BOOTTIME, which all share). The floor is one write.
Prints `name: value unit`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oslo_config import cfg

from engine import options
from engine.clock import boottime
from engine.config.live import LiveConfiguration
from engine.config.shared import SharedConfiguration
from engine.coordination.local import LocalServer
from engine.coordination.session import SessionSettings, open_session
from engine.processes import leashed

PROCESSES = 5
CLUSTER = "bench"


async def follow(settings: SessionSettings, name: str, directory: Path) -> None:
    """A process: tells `ready`, then each value and when it was in force."""
    live = LiveConfiguration(
        [],
        directory / f"{name}.shared",
        catalogue=options.catalogue(),
        read=lambda files: options.read(files, program="bench"),
        name=name,
        engine=name,
    )
    await asyncio.to_thread(live.start, settings)

    def told(conf: cfg.ConfigOpts, _changed: object) -> None:
        print(json.dumps({"value": conf.hosts.tick_seconds, "at": boottime()}), flush=True)

    live.conf.register_mutate_hook(told)
    async with open_session(settings) as session, live.following(session):
        print(json.dumps({"ready": name}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


class Followers:
    """The processes, and what they have told."""

    def __init__(self, settings: SessionSettings, directory: Path) -> None:
        self.told: list[dict[str, Any]] = []
        self.changed = threading.Condition()
        self.children = []
        for number in range(PROCESSES):
            arguments = [sys.executable, str(Path(__file__).resolve()), "--follow", f"process-{number}"]
            arguments += [settings.hosts, str(settings.tick_seconds), str(directory)]
            child = subprocess.Popen(
                leashed(arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            self.children.append(child)
            threading.Thread(target=self._read, args=(child,), name=f"process-{number}").start()

    def _read(self, child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        for line in child.stdout:
            with self.changed:
                self.told.append(json.loads(line))
                self.changed.notify_all()

    def wait(self, what: str, value: object = None) -> list[Any]:
        """What each has told of `what`, once all have told it (with this value)."""

        def found() -> list[Any]:
            return [told[what] for told in self.told if what in told and value in (None, told.get("value"))]

        with self.changed:
            if not self.changed.wait_for(lambda: len(found()) == PROCESSES, 60):
                raise SystemExit(f"{len(found())} of {PROCESSES} have told: {self.told}")
            return found()

    def close(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()


@contextlib.contextmanager
def following(settings: SessionSettings, directory: Path) -> Iterator[Followers]:
    with contextlib.closing(Followers(settings, directory)) as followers:
        followers.wait("ready")
        yield followers


async def measure(settings: SessionSettings, followers: Followers, rounds: int) -> None:
    floor, seen = [], []
    async with open_session(settings) as session:
        shared = SharedConfiguration(session)
        await session.ensure("/floor")
        for number in range(rounds):
            started = boottime()
            await session.set("/floor", b"1")
            floor.append(boottime() - started)
            followers.told.clear()
            started = boottime()
            value = 1.0 + number / 1000
            await shared.change({"hosts/tick_seconds": str(value).encode()}, user="bench")
            seen.append(max(await asyncio.to_thread(followers.wait, "at", value)) - started)
    seen.sort()
    say("config.floor.write", statistics.median(floor) * 1e3, "ms")
    say("config.change.seen_by_all.p50", statistics.median(seen) * 1e3, "ms")
    say("config.change.seen_by_all.p99", seen[int(len(seen) * 0.99)] * 1e3, "ms (target 500)")


def say(name: str, value: float, unit: str) -> None:
    print(f"{name}: {value:.4g} {unit}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--smoke", action="store_true", help="three rounds")
    parser.add_argument("--follow", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.follow:
        name, hosts, tick, directory = arguments.follow
        settings = SessionSettings(hosts=hosts, cluster=CLUSTER, tick_seconds=float(tick))
        asyncio.run(follow(settings, name, Path(directory)))
        return
    os.environ.pop("OS_HOSTS__TICK_SECONDS", None)  # would hide what is measured
    with tempfile.TemporaryDirectory() as directory, LocalServer(Path(directory) / "zookeeper") as server:
        settings = SessionSettings(hosts=server.hosts, cluster=CLUSTER, tick_seconds=server.tick_seconds)
        with following(settings, Path(directory)) as followers:
            asyncio.run(measure(settings, followers, 3 if arguments.smoke else arguments.rounds))


if __name__ == "__main__":
    main()
