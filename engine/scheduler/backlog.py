"""Runs that wait for others of their job, in the order in which they were planned; pure.

Read with the open runs now and then, and kept between, so that the end of a run costs no look at the
database. Used by `loop.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from engine.plugin import ShardId
from engine.scheduler.records import Fire, FireKey


class Backlog:
    """By job; ready are those of which a run may be begun."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[FireKey, Fire]] = {}
        self._ready: dict[str, None] = {}

    @property
    def ready(self) -> bool:
        """Whether there may be something to begin."""
        return bool(self._ready)

    def put(self, fire: Fire) -> None:
        self._waiting.setdefault(fire.schedule_id, {})[fire.key] = fire
        self._ready[fire.schedule_id] = None

    def replace(self, shards: Collection[ShardId], found: Iterable[Fire]) -> None:
        """All that wait in these shards, as they were just read, the oldest first."""
        self.forget(shards)
        for fire in found:
            self.put(fire)

    def forget(self, shards: Collection[ShardId]) -> None:
        for id in [id for id, fires in self._waiting.items() if _shard(fires) in shards]:
            del self._waiting[id]
            self._ready.pop(id, None)

    def ended(self, job_id: str) -> bool:
        """A run of the job has ended; whether another waits for that."""
        if job_id in self._waiting:
            self._ready[job_id] = None
        return job_id in self._waiting

    def pop_ready(self, busy: Callable[[str], bool], *, most: int) -> list[Fire]:
        """The next run of up to `most` jobs that are not `busy`; one a job. They are not in it any more."""
        popped: list[Fire] = []
        for id in list(self._ready):
            if len(popped) >= most:
                break
            del self._ready[id]
            if busy(id):
                continue  # its end will say so
            fires = self._waiting[id]
            popped.append(fires.pop(min(fires)))
            if not fires:
                del self._waiting[id]
            # Whether one may begin beside it is asked again when it has begun.
            else:
                self._ready[id] = None
        return popped


def _shard(fires: dict[FireKey, Fire]) -> ShardId:
    return next(iter(fires.values())).shard
