"""The whole simulation as one: which process has which host, and commands that reach all of them.

The first process has a fleet of its own and a `Link` to each other process; a command names ports
and goes wherever they are. The control socket is a file that only its owner may use.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from plugins.simulator.fleet import Fleet
from plugins.simulator.link import LINE_LIMIT, Link, LinkClosed, Refused
from plugins.simulator.site import Power


class Simulation:
    """Commands by port, wherever the host lives."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._links: dict[int, Link] = {}

    @property
    def ports(self) -> list[int]:
        return sorted([*self._fleet.hosts, *self._links])

    def join(self, link: Link, ports: Sequence[int]) -> None:
        """From now on `ports` are reached over `link`."""
        self._links.update(dict.fromkeys(ports, link))

    async def handle(self, do: str, arguments: Mapping[str, Any]) -> Any:
        """Serve a control client: `ports`, or `hosts` with `command`, `ports` (None: all), `details`.

        Raises `Refused`.
        """
        if do == "ports":
            return self.ports
        if do != "hosts":
            raise Refused(f"unknown call {do!r}; known: ports, hosts")
        command, ports, details = (arguments.get(name) for name in ("command", "ports", "details"))
        if not isinstance(command, str) or not (ports is None or isinstance(ports, list)):
            raise Refused("command must be a text and ports a list")
        if not isinstance(details, dict):
            raise Refused("details must be a map")
        return await self.command(command, self.ports if ports is None else ports, details)

    async def command(self, do: str, ports: Sequence[int], arguments: Mapping[str, Any]) -> dict[int, Any]:
        """What each of `ports` said, by port. Raises `Refused`; no port was touched if one is unknown."""
        shares: dict[Link | None, list[int]] = collections.defaultdict(list)
        for port in ports:
            if port not in self._fleet.hosts and port not in self._links:
                raise Refused(f"no simulated host on port {port!r}")
            shares[self._links.get(port)].append(port)
        answers: dict[int, Any] = {}
        for link, share in shares.items():
            if link is None:
                answers |= await self._fleet.command(do, share, arguments)
                continue
            try:
                answer = await link.call("hosts", command=do, ports=share, details=dict(arguments))
            except LinkClosed as error:
                raise Refused(f"a process of the simulation is gone: {error}") from error
            answers |= {int(port): value for port, value in answer.items()}
        return answers

    async def restart_agent(self, port: int) -> None:
        """Start a host's agent again. Raises `Refused`."""
        await self.command("restart_agent", [port], {})

    async def power(self, port: int, action: Power) -> dict[str, str]:
        """Act on a host's power supply. Raises LookupError when there is no such host."""
        try:
            return dict((await self.command("power", [port], {"action": action}))[port])
        except Refused as error:
            raise LookupError(str(error)) from error


@contextlib.asynccontextmanager
async def serve_control(simulation: Simulation, path: Path) -> AsyncIterator[None]:
    """Listen on the unix socket `path` for control clients. Raises OSError."""
    clients: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        clients.add(task)
        try:
            async with Link(reader, writer, handler=simulation.handle) as link:
                await link.closed.wait()
        except asyncio.CancelledError:
            pass  # ours alone: the simulation ends
        finally:
            clients.discard(task)

    _forget(path)
    before = os.umask(0o177)
    try:
        server = await asyncio.start_unix_server(serve, path, limit=LINE_LIMIT)
    finally:
        os.umask(before)
    try:
        yield
    finally:
        server.close()
        for task in tuple(clients):
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        _forget(path)


def _forget(path: Path) -> None:
    """Remove the socket's file, also one that a killed simulation left behind."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
