"""Simulated hosts for the tests: in this process (`hosts`), or a whole simulation (`simulate`)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from plugins.simulator.control import Simulator, open_simulator
from plugins.simulator.fleet import Fleet
from plugins.simulator.host import SimulatedHost, bound_socket
from plugins.simulator.log import WitnessLog
from plugins.simulator.machines import Pace
from plugins.simulator.site import Power, Site

START_SECONDS = 30.0
PACE = Pace(launch_seconds=0.02, boot_seconds=0.04, shutdown_seconds=0.04, migrate_seconds=0.1)


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[list[SimulatedHost]]:
    """Three hosts of one process, listening, their log in `tmp_path/log`."""
    fleet: Fleet

    async def power(port: int, action: Power) -> dict[str, str]:
        return dict((await fleet.command("power", [port], {"action": action}))[port])

    log = WitnessLog(tmp_path / "log")
    async with Site(log=log, pace=PACE, power=power) as site:
        sockets = [bound_socket(0) for _ in range(3)]
        ports = [sock.getsockname()[1] for sock in sockets]
        for sock in sockets:
            sock.close()
        fleet = Fleet(site, ports)
        async with fleet:
            yield list(fleet.hosts.values())


@pytest.fixture
def host(hosts: list[SimulatedHost]) -> SimulatedHost:
    return hosts[0]


@dataclass(frozen=True, slots=True)
class Simulation:
    """A running `engine-simulator`. `ready` is the line it printed."""

    process: asyncio.subprocess.Process
    ready: dict[str, Any]
    simulator: Simulator
    log: Path

    @property
    def ports(self) -> list[int]:
        return [port for first, last in self.ready["ports"] for port in range(first, last + 1)]


Simulate = Callable[..., Awaitable[Simulation]]


@pytest.fixture
async def simulate(tmp_path: Path) -> AsyncIterator[Simulate]:
    """Start a simulation of its own processes with these options; all end with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(*options: str) -> Simulation:
            process = await run("--base-port", "0", "--control", str(tmp_path / "control"), *options)
            stack.push_async_callback(end, process)
            assert process.stdout is not None
            async with asyncio.timeout(START_SECONDS):
                ready = json.loads(await process.stdout.readline())
            simulator = await stack.enter_async_context(open_simulator(tmp_path / "control"))
            return Simulation(process, ready, simulator, tmp_path / "log")

        yield start


async def run(*options: str) -> asyncio.subprocess.Process:
    """Start `engine-simulator` with these options and no more."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "plugins.simulator.main",
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def end(process: asyncio.subprocess.Process) -> None:
    """Terminate it if it still runs, and wait for it."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    async with asyncio.timeout(START_SECONDS):
        await process.wait()
