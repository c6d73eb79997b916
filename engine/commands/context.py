"""What a step is given: `engine.plugin.StepContext` for one intention of one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from engine.errors import HostUnreachable, InvalidInput
from engine.plugin import ChildOutcome, HostConnection, HostId, Json
from engine.secrets import Secrets


class Connections(Protocol):
    """The hosts of this engine; `HostFleet` is it, handed over by `service.py`."""

    def connection(self, host_id: HostId) -> HostConnection:
        """Raises `HostUnreachable` while there is none."""

    async def restart_agent(self, host_id: HostId) -> None:
        """See `HostDriver.restart_agent`."""


class NoConnections:
    """Where there are no hosts at all."""

    def connection(self, host_id: HostId) -> HostConnection:
        raise HostUnreachable(f"host {host_id} is not connected: this engine has no hosts")

    async def restart_agent(self, host_id: HostId) -> None:
        self.connection(host_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """See `StepContext`."""

    command_id: str
    user: str
    operation_id: str
    attempt: int
    data: Mapping[str, Json]
    host_id: HostId | None
    children: Sequence[ChildOutcome]
    now: datetime
    connections: Connections = field(repr=False)
    report: Callable[[int, str], None] = field(repr=False)
    secrets: Secrets = field(repr=False, default_factory=Secrets)

    def connection(self, host_id: HostId | None = None) -> HostConnection:
        return self.connections.connection(host_id or self._host())

    async def restart_agent(self) -> None:
        await self.connections.restart_agent(self._host())

    def _host(self) -> HostId:
        if self.host_id is None:
            raise InvalidInput("this step was not intended on any host")
        return self.host_id

    def reveal(self, secret: str) -> str:
        return self.secrets.decrypt(secret)

    def progress(self, percent: int, message: str = "") -> None:
        self.report(max(0, min(100, percent)), message)
