"""The simulated hosts of one process: made together, listening together, commanded by port.

Ten thousand listeners cost a few kilobytes each; they are opened in slices so that the loop serves
the first hosts while the last are being opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from plugins.simulator.commands import COMMANDS
from plugins.simulator.host import SimulatedHost
from plugins.simulator.link import Refused
from plugins.simulator.site import Site

_SLICE = 200


class PortTaken(Exception):
    """A port that a host should listen on is in use."""


class Fleet:
    """An async context manager: entered, all ports listen. Raises `PortTaken`."""

    def __init__(self, site: Site, ports: Iterable[int]) -> None:
        self.hosts = {port: SimulatedHost(site, port) for port in ports}

    async def __aenter__(self) -> Self:
        try:
            for number, host in enumerate(self.hosts.values(), start=1):
                try:
                    await host.listen()
                except OSError as error:
                    raise PortTaken(f"port {host.port} of 127.0.0.1: {error.strerror}") from error
                if number % _SLICE == 0:
                    await asyncio.sleep(0)
        except BaseException:
            self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        await asyncio.sleep(0)  # connections tell the log that they ended

    async def command(self, do: str, ports: Iterable[int], arguments: Mapping[str, Any]) -> dict[int, Any]:
        """Do one thing to each of `ports`, all of them ours. Raises `Refused`."""
        act = COMMANDS.get(do)
        if act is None:
            raise Refused(f"unknown command {do!r}; known: {', '.join(sorted(COMMANDS))}")
        return {port: await act(self.hosts[port], arguments) for port in ports}

    def _stop(self) -> None:
        for host in self.hosts.values():
            host.refuse()
