"""What the scheduler is given: who carries out tasks and commands, under which claim, with what settings.

Neither commands nor the calling of tasks are known here; `service` hands both over.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from engine.plugin import Authority, Json, ShardId
from engine.scheduler.records import Prepared, Schedule


class ShardClaim(Protocol):
    """What the owner of a shard acts under."""

    @property
    def shard(self) -> ShardId: ...
    @property
    def epoch(self) -> int: ...
    @property
    def authority(self) -> Authority: ...


class Tasks(Protocol):
    """Tasks, run here."""

    def timeout_seconds(self, name: str) -> float:
        """How long the task may take where its job does not say. Raises `NotFound`."""

    async def run(
        self, name: str, arguments: Json, *, key: str, authority: Authority, planned_at: datetime
    ) -> Any:
        """Run it once; what it returned, as JSON can carry it. Raises `NotFound`, `InvalidInput`, and
        whatever the task raises."""


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """How a command has ended."""

    command_id: str
    succeeded: bool
    state: str
    error: str


class Commands(Protocol):
    """Commands, submitted together with the run that asks for them."""

    def check(self, command: str, arguments: Json) -> None:
        """Raises `NotFound`, `InvalidInput`."""

    def prepare(self, schedule: Schedule, command_id: str) -> Prepared:
        """The command that this job asks for, under this id. Raises `NotFound`, `InvalidInput`."""

    async def insert(self, connection: Any, prepared: Sequence[Prepared]) -> None:
        """Insert them, within the open transaction `connection`."""

    async def tell(self, prepared: Sequence[Prepared]) -> None:
        """After the commit: have their owners look. Raises nothing."""

    async def ended(self, ids: Collection[str]) -> Sequence[CommandEnd]:
        """Of these commands, those that have ended, or that there are not."""

    async def cancel(self, command_id: str) -> None:
        """Ask for it; raises nothing."""


@dataclass(slots=True, kw_only=True)
class SchedulerSettings:
    """Read at each use, since they may change while jobs run.

    `window_seconds`: how far ahead jobs are held in memory; `look_seconds`: how often an owner looks by
    itself; `batch`: jobs fired in one transaction; `concurrent`: runs at once; `handover_seconds`: how long
    runs may hold up a handover."""

    window_seconds: float = 30.0
    look_seconds: float = 5.0
    batch: int = 200
    concurrent: int = 500
    handover_seconds: float = 2.0
    sample_seconds: float = 10.0
    prune_seconds: float = 60.0
    command_look_seconds: float = 0.5
