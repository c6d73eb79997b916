"""The runs that this engine has in hand, by their keys: what is in here is begun by nobody else here.

Used by `loop.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from engine.plugin import ShardId
from engine.scheduler.planning import UnderWay
from engine.scheduler.records import FireKey
from engine.scheduler.run import Run
from engine.scheduler.services import ShardClaim


class Runs:
    """Runs and their tasks. One that failed to be recorded stays in it until its shard is let go."""

    def __init__(self) -> None:
        self._runs: dict[FireKey, tuple[Run, asyncio.Task[None]]] = {}
        self._latest: dict[str, Run] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def __contains__(self, key: FireKey) -> bool:
        return key in self._runs

    def add(self, run: Run, task: asyncio.Task[None]) -> None:
        self._runs[run.fire.key] = (run, task)
        self._latest[run.schedule.id] = run

    def remove(self, run: Run) -> None:
        """It has ended, and that is recorded."""
        if self._runs.get(run.fire.key, (None, None))[0] is run:
            del self._runs[run.fire.key]

    def stopped(self, run: Run) -> None:
        """Nothing is done for it any more, however it ended."""
        if self._latest.get(run.schedule.id) is run:
            del self._latest[run.schedule.id]

    def under_way(self, job_id: str) -> UnderWay | None:
        """The run of the job that lasts: not one that is over and only not recorded yet, nor one whose task
        has not begun, for want of a place or of authority."""
        latest = self._latest.get(job_id)
        if latest is None or latest.over or latest.since is None:
            return None
        return UnderWay(latest.fire.fire_at, latest.since)

    def hinders(self, job_id: str) -> bool:
        """Whether a run of the job is in here beside which none may begin, be it over."""
        latest = self._latest.get(job_id)
        return latest is not None and not latest.schedule.overlap

    def tasks_of(self, shards: Collection[ShardId]) -> list[asyncio.Task[None]]:
        return [task for run, task in self._runs.values() if run.claim.shard in shards]

    def cancel(self, shards: Collection[ShardId]) -> list[asyncio.Task[None]]:
        """Of these shards; the tasks that are ending."""
        return self._cancel([key for key, (run, _) in self._runs.items() if run.claim.shard in shards])

    def cancel_claim(self, claim: ShardClaim) -> None:
        """Those under this very claim, but for the one that calls."""
        self._cancel([key for key, (run, _) in self._runs.items() if run.claim is claim])

    def _cancel(self, keys: Collection[FireKey]) -> list[asyncio.Task[None]]:
        tasks = [self._runs.pop(key)[1] for key in keys]
        for task in tasks:
            if task is not asyncio.current_task():
                task.cancel()
        return tasks
