"""The simulation's processes: how many, how they begin, how each ends when the first one does.

A host needs a descriptor for its listener and three for connections, and a process has a hard limit
of them; so a large fleet is split. All but the first process are forked from it before any loop or
thread exists (the interpreter's pages stay shared), asked to be killed by the kernel when it dies, and
joined to it by a socket. A process that dies ends the simulation: a witness with a hole in it must
not go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import resource
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plugins.simulator.door import open_door
from plugins.simulator.fleet import Fleet, PortTaken
from plugins.simulator.link import LINE_LIMIT, Link, LinkClosed, Refused
from plugins.simulator.log import WitnessLog
from plugins.simulator.machines import Pace
from plugins.simulator.simulation import Simulation, serve_control
from plugins.simulator.site import Power, Site

_DESCRIPTORS_A_HOST = 4
_DESCRIPTORS_SPARE = 256
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What every process of a simulation needs to know."""

    log: Path | None
    log_limit_bytes: int
    pace: Pace
    server_tls: ssl.SSLContext | None = None
    client_tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Branch:
    """Another process of the simulation, as the first one sees it."""

    pid: int
    ports: Sequence[int]
    socket: socket.socket


class StartFailed(Exception):
    """The simulation could not begin, or lost a process; the message says which."""


def raise_descriptor_limit() -> int:
    """Raise RLIMIT_NOFILE to its hard limit; return how many hosts a process can then serve."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(1, (hard - _DESCRIPTORS_SPARE) // _DESCRIPTORS_A_HOST)


def split(ports: Sequence[int], *, a_process: int, at_least: int = 1) -> list[Sequence[int]]:
    """Shares of `ports`, as even as can be, none larger than `a_process`."""
    count = min(len(ports), max(at_least, -(-len(ports) // a_process)))
    bounds = [len(ports) * number // count for number in range(count + 1)]
    return [ports[low:high] for low, high in itertools.pairwise(bounds)]


def die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent`, which started it, dies by whatever cause."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it died before the kernel was told
        os._exit(128 + int(signal.SIGKILL))


def fork_branches(settings: Settings, shares: Sequence[Sequence[int]]) -> list[Branch]:
    """One process a share. To be called from the main thread, before any loop exists."""
    branches: list[Branch] = []
    parent = os.getpid()
    for ports in shares:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            for branch in branches:
                branch.socket.close()
            os._exit(_be_branch(settings, ports, theirs, parent))
        theirs.close()
        branches.append(Branch(pid, ports, ours))
    return branches


def _be_branch(settings: Settings, ports: Sequence[int], trunk: socket.socket, parent: int) -> int:
    try:
        die_with(parent)
        asyncio.run(_run_branch(settings, ports, trunk))
    except (PortTaken, OSError, LinkClosed):
        return 1  # the first process was told why, or failed itself
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


async def _run_branch(settings: Settings, ports: Sequence[int], trunk: socket.socket) -> None:
    """Serve `ports` until the first process goes away. Signals to the whole group are its business."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    reader, writer = await asyncio.open_connection(sock=trunk, limit=LINE_LIMIT)
    async with contextlib.AsyncExitStack() as stack:
        link: Link

        async def power(port: int, action: Power) -> dict[str, str]:
            try:
                return dict(await link.call("power", port=port, action=action))
            except (Refused, LinkClosed) as error:
                raise LookupError(str(error)) from error

        site = await stack.enter_async_context(_open_site(settings, power))
        fleet = Fleet(site, ports)

        async def handle(do: str, arguments: Mapping[str, Any]) -> Any:
            return await fleet.command(arguments["command"], arguments["ports"], arguments["details"])

        link = await stack.enter_async_context(Link(reader, writer, handler=handle))
        try:
            await stack.enter_async_context(fleet)
        except (PortTaken, OSError) as error:
            await link.call("ready", failure=str(error))
            raise
        await link.call("ready", failure=None)
        await link.closed.wait()


async def run_trunk(
    settings: Settings,
    ports: Sequence[int],
    branches: Sequence[Branch],
    control: Path | None,
    on_ready: Callable[[int | None], None],
    *,
    ssh: Path | None = None,
) -> None:
    """The first process's part: until SIGTERM or SIGINT. `on_ready` is told the SSH server's port.

    Raises `StartFailed`, `PortTaken`, `NoDoor`, OSError.
    """
    stopped = _stop_signals()
    async with contextlib.AsyncExitStack() as stack:
        simulation: Simulation

        async def power(port: int, action: Power) -> dict[str, str]:
            return await simulation.power(port, action)

        for branch in branches:  # waited for last: by then all have been told to end
            stack.callback(_reap, branch.pid)
        for branch in branches:
            stack.callback(branch.socket.close)
        site = await stack.enter_async_context(_open_site(settings, power))
        fleet = Fleet(site, ports)
        simulation = Simulation(fleet)
        await stack.enter_async_context(fleet)
        joined = [await _join(stack, simulation, branch) for branch in branches]
        for link, ready in joined:
            await _first(ready.answered, link.closed, stopped)
            if ready.failure is not None:
                raise StartFailed(ready.failure)
        if control is not None:
            await stack.enter_async_context(serve_control(simulation, control))
        ssh_port: int | None = None
        if ssh is not None:
            ssh_port = await stack.enter_async_context(open_door(ssh, simulation.restart_agent))
        if not stopped.is_set():
            on_ready(ssh_port)
            await _first(stopped, *(link.closed for link, _ in joined))
        if not stopped.is_set():
            raise StartFailed("a process of the simulation died")


class _Readiness:
    """What a branch said once it listened, or could not."""

    def __init__(self) -> None:
        self.answered = asyncio.Event()
        self.failure: str | None = None


async def _join(
    stack: contextlib.AsyncExitStack, simulation: Simulation, branch: Branch
) -> tuple[Link, _Readiness]:
    ready = _Readiness()

    async def handle(do: str, arguments: Mapping[str, Any]) -> Any:
        if do == "ready":
            ready.failure = arguments["failure"]
            ready.answered.set()
            return True
        try:
            return await simulation.power(arguments["port"], arguments["action"])
        except LookupError as error:
            raise Refused(str(error)) from error

    reader, writer = await asyncio.open_connection(sock=branch.socket, limit=LINE_LIMIT)
    link = await stack.enter_async_context(Link(reader, writer, handler=handle))
    simulation.join(link, branch.ports)
    return link, ready


def _reap(pid: int) -> None:
    """Its link is closed, so it ends by itself; wait for it, so that no port outlives us."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


@contextlib.asynccontextmanager
async def _open_site(settings: Settings, power: Callable[[int, Power], Any]) -> AsyncIterator[Site]:
    log = WitnessLog(settings.log, limit_bytes=settings.log_limit_bytes)
    site = Site(
        log=log,
        pace=settings.pace,
        power=power,
        server_tls=settings.server_tls,
        client_tls=settings.client_tls,
    )
    async with site:
        yield site


def _stop_signals() -> asyncio.Event:
    """Set by SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    return stopped


async def _first(*events: asyncio.Event) -> None:
    """Return once any of `events` is set."""
    waits = [asyncio.create_task(event.wait(), name="simulator wait") for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
