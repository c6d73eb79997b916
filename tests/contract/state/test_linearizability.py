"""Three processes use one map under kills, freezes and broken connections: every key is linearizable.

And the check finds it where a read may be late, or a swap does not name the version.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.coordination.local import LocalServer
from engine.processes import leashed
from tests.contract.coordination.conftest import until
from tests.contract.state.history import SESSION_SECONDS, read
from tests.contract.state.linearizability import Operation, explainable, faults

ROOT = Path(__file__).resolve().parents[3]


def op(
    kind: str,
    since: float,
    until: float,
    answer: bool | int | None = True,
    *,
    value: int | None = None,
    expected: int | None = None,
) -> Operation:
    return Operation("k", kind, value, expected, answer, since, until)


def test_the_checker_knows_a_register_from_what_is_none() -> None:
    write = op("put", 0, 1, value=1)
    assert explainable([write, op("read", 2, 3, 1)])
    assert not explainable([write, op("read", 2, 3, None)])
    assert explainable([write, op("read", 0.5, 3, None)])
    # Two readers that see two writes in different orders.
    both = [op("put", 0, 9, value=1), op("put", 0, 9, value=2)]
    assert not explainable([*both, op("read", 1, 2, 1), op("read", 3, 4, 2), op("read", 5, 6, 1)])
    assert explainable([*both, op("read", 1, 2, 1), op("read", 3, 4, 2), op("read", 5, 6, 2)])


def test_the_checker_lets_what_is_unknown_happen_late_or_never_and_not_early() -> None:
    lost = op("put", 1, math.inf, None, value=2)
    first = op("put", 0, 0.5, value=1)
    assert explainable([first, lost, op("read", 5, 6, 1), op("read", 7, 8, 2)])
    assert explainable([first, lost, op("read", 5, 6, 1)])
    assert not explainable([first, lost, op("read", 0.6, 0.9, 2)])
    assert not explainable([first, lost, op("read", 5, 6, 2), op("read", 7, 8, 1)])


def test_the_checker_holds_conditions_to_what_they_found() -> None:
    first = op("put", 0, 1, value=1)
    assert explainable([first, op("swap", 2, 3, value=2, expected=1), op("read", 4, 5, 2)])
    assert not explainable([first, op("swap", 2, 3, False, value=2, expected=1)])
    lost_update = [op("swap", 2, 9, value=2, expected=1), op("swap", 2, 9, value=3, expected=1)]
    assert not explainable([first, *lost_update])
    assert explainable([first, op("put_if_absent", 2, 3, False, value=2), op("remove", 4, 5)])
    assert not explainable([first, op("remove", 2, 3), op("replace", 4, 5, value=4)])


class Trouble:
    """Keeps three processes running, kills one and freezes one in turns."""

    def __init__(self, hosts: str, cluster: str, directory: Path, build: str) -> None:
        self._arguments = (hosts, cluster)
        self._directory = directory
        self._build = build
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._started = 0
        self.kills = self.freezes = 0

    @property
    def files(self) -> list[Path]:
        return sorted(self._directory.glob("history-*"))

    async def start(self, number: int) -> None:
        self._started += 1
        file = str(self._directory / f"history-{number}-{self._started}")
        argv = [sys.executable, "-m", "tests.contract.state.history", *self._arguments, str(number), file]
        self._processes[number] = await asyncio.create_subprocess_exec(
            *leashed([*argv, self._build]), cwd=ROOT
        )

    async def stop(self) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def go_on(self) -> None:
        while True:
            await asyncio.sleep(random.uniform(0.3, 0.8))
            number = random.choice(list(self._processes))
            process = self._processes[number]
            if self.kills <= self.freezes:
                process.kill()
                await process.wait()
                self.kills += 1
                await self.start(number)
            else:
                process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(random.choice((0.3, SESSION_SECONDS + 1.0)))
                process.send_signal(signal.SIGCONT)
                self.freezes += 1


@contextlib.asynccontextmanager
async def troubled(hosts: str, cluster: str, directory: Path, build: str) -> AsyncIterator[Trouble]:
    trouble = Trouble(hosts, cluster, directory, build)
    try:
        for number in range(3):
            await trouble.start(number)
        going_on = asyncio.create_task(trouble.go_on(), name="trouble")
        yield trouble
        going_on.cancel()
        await asyncio.wait([going_on])
        if not going_on.cancelled():
            going_on.result()
    finally:
        await trouble.stop()


async def recorded(
    server: LocalServer, cluster: str, directory: Path, build: str, *, seconds: float, least: int
) -> list[Operation]:
    """What was asked in so much time at least, until there is enough of it and of the trouble.

    It is read when nobody writes any more: else one file would lack what another one has seen.
    """

    def enough() -> bool:
        lines = sum(len(file.read_bytes().splitlines()) for file in trouble.files)
        return trouble.freezes >= 1 and lines >= 2 * least

    async with troubled(server.hosts, cluster, directory, build) as trouble:
        await asyncio.sleep(seconds)
        await until(enough, seconds=seconds * 6 + 60)
    operations = read(trouble.files)
    unknown = sum(operation.unknown for operation in operations)
    print(
        f"{len(operations)} operations, {unknown} unknown, {trouble.kills} kills, {trouble.freezes} freezes"
    )
    return operations


@pytest.mark.parametrize(
    "seconds", [pytest.param(6, id="sample"), pytest.param(180, id="soak", marks=pytest.mark.soak)]
)
async def test_every_key_is_linearizable_under_kills_freezes_and_broken_connections(
    zookeeper: LocalServer, cluster_name: str, tmp_path: Path, seconds: int
) -> None:
    operations = await recorded(zookeeper, cluster_name, tmp_path, "true", seconds=seconds, least=1000)
    assert faults(operations) == []


@pytest.mark.parametrize("build", ["stale", "blind"])
async def test_a_planted_violation_is_found(
    zookeeper: LocalServer, cluster_name: str, tmp_path: Path, build: str
) -> None:
    for attempt in range(8):
        directory = tmp_path / str(attempt)
        directory.mkdir()
        name = f"{cluster_name}-{attempt}"
        if faults(await recorded(zookeeper, name, directory, build, seconds=2, least=300)):
            return
    raise AssertionError("a planted fault was not found")
