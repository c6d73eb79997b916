"""Three engine processes under SIGKILL and SIGSTOP: no write of a former holder ever counts.

And the same check fails where the resource does not look at tokens: engines are frozen between their
check and their write, for longer than their session lasts.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from engine.clock import boottime
from engine.coordination.local import LocalServer
from engine.locks.lock import FOREVER
from engine.processes import leashed
from tests.contract.coordination.conftest import settings_for
from tests.contract.locks.conftest import engine_on, left
from tests.contract.locks.history import RESOURCES, SESSION_SECONDS, Effect, Resource, faults

ROOT = Path(__file__).resolve().parents[3]
FROZEN_SECONDS = SESSION_SECONDS + 1.5
PAUSE_SECONDS = 0.5
LEAST_RATE = 50.0


class Trouble:
    """Keeps three engines running, and kills and freezes them in turns."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._readers: set[asyncio.Task[None]] = set()
        self._writing: asyncio.Queue[asyncio.subprocess.Process] = asyncio.Queue()
        self.kills = 0
        self.freezes = 0

    async def start(self, number: int) -> None:
        hosts, cluster, file, build = self._arguments
        process = await asyncio.create_subprocess_exec(
            *leashed(
                [
                    sys.executable,
                    "-m",
                    "tests.contract.locks.history",
                    hosts,
                    cluster,
                    f"engine-{number}",
                    file,
                    build,
                ]
            ),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        self._processes[number] = process
        reader = asyncio.create_task(self._read(process), name=f"reader {number}")
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)

    async def stop(self) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await asyncio.gather(*self._readers)

    async def freeze(self) -> None:
        """Stop an engine that is about to write; thaw it when its session is long over."""
        while not self._writing.empty():
            self._writing.get_nowait()
        process = await self._writing.get()
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(FROZEN_SECONDS)
        process.send_signal(signal.SIGCONT)
        self.freezes += 1

    async def kill(self) -> None:
        number = random.choice(list(self._processes))
        self._processes[number].kill()
        await self._processes[number].wait()
        self.kills += 1
        await self.start(number)

    async def go_on(self) -> None:
        while True:
            await self.freeze()
            await asyncio.sleep(PAUSE_SECONDS)
            await self.kill()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for _line in process.stdout:
            self._writing.put_nowait(process)


@contextlib.asynccontextmanager
async def troubled(*arguments: str) -> AsyncIterator[Trouble]:
    trouble = Trouble(*arguments)
    try:
        for number in range(3):
            await trouble.start(number)
        going_on = asyncio.create_task(trouble.go_on(), name="trouble")
        try:
            yield trouble
        finally:
            going_on.cancel()
            await asyncio.wait([going_on])
            if not going_on.cancelled():
                going_on.result()
    finally:
        await trouble.stop()


async def until(condition: Callable[[], bool], *, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def run_history(
    zookeeper: LocalServer, cluster: str, file: Path, *, acquisitions: int
) -> Callable[[], Awaitable[None]]:
    resource = Resource(file)
    began = boottime()
    async with troubled(zookeeper.hosts, cluster, str(file), "fenced") as trouble:
        await until(
            lambda: (
                resource.acquisitions() >= acquisitions
                and resource.count("refusal") >= 1
                and trouble.kills >= 2
                and trouble.freezes >= 2
            ),
            seconds=60 + acquisitions / LEAST_RATE,
        )
        taken = resource.acquisitions()
        rate = taken / (boottime() - began)
    effects = resource.effects()
    print(
        f"\nlock history: {taken} acquisitions, {len(effects)} effects, {rate:.0f} a second, "
        f"{trouble.kills} kills, {trouble.freezes} freezes, {resource.count('refusal')} late writes refused"
    )
    resource.close()
    assert rate >= LEAST_RATE, f"void: only {rate:.0f} a second"
    assert faults(effects) == []

    async def nothing_is_left() -> None:
        """But empty containers, where the last sharer or waiter was killed: the next taker replaces them,
        or ZooKeeper removes them, within a minute."""
        async with asyncio.timeout(20), engine_on(settings_for(zookeeper.hosts, cluster), "heir") as heir:
            async with heir.locks.acquire(exclusive=set(RESOURCES), wait=FOREVER):
                pass
            assert [path for path in await left(heir.session) if not path.startswith("waits/")] == []

    return nothing_is_left


async def test_no_late_write_counts_while_engines_are_killed_and_frozen(
    zookeeper: LocalServer, cluster_name: str, tmp_path: Path
) -> None:
    nothing_is_left = await run_history(zookeeper, cluster_name, tmp_path / "effects.db", acquisitions=1000)
    await nothing_is_left()


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_no_late_write_counts_in_ten_thousand_acquisitions(
    zookeeper: LocalServer, cluster_name: str, tmp_path: Path
) -> None:
    nothing_is_left = await run_history(zookeeper, cluster_name, tmp_path / "effects.db", acquisitions=10_000)
    await nothing_is_left()


async def test_the_check_fails_where_the_resource_does_not_look_at_tokens(
    zookeeper: LocalServer, cluster_name: str, tmp_path: Path
) -> None:
    resource = Resource(tmp_path / "effects.db")
    async with troubled(zookeeper.hosts, cluster_name, str(tmp_path / "effects.db"), "unfenced"):
        await until(lambda: faults(resource.effects()) != [], seconds=90)
    resource.close()


def test_the_judge_sees_a_token_that_decreases_and_a_change_under_a_shared_lock() -> None:
    def write(token: int) -> Effect:
        return Effect("res:0", "write", token, "a", 0, 1)

    assert faults([write(1), write(1), write(2)]) == []
    assert len(faults([write(2), write(1)])) == 1
    assert faults([Effect("res:0", "read", 1, "a", 4, 4)]) == []
    assert len(faults([Effect("res:0", "read", 1, "a", 4, 5)])) == 1
