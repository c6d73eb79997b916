"""The jobs that are due soon, by when: what the loop knows between two looks at the database; pure.

A job is in it once, as it was last read or fired; whatever else is said of it is passed over. Used by
`loop.py`.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from engine.plugin import ShardId
from engine.scheduler.records import Schedule


@dataclass(slots=True, eq=False)
class _Entry:
    """A job in the heap; one that is not in the table of entries any more is passed over."""

    job: Schedule
    due: datetime


class Agenda:
    """Jobs with a planned time each."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._heap: list[tuple[datetime, int, _Entry]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def next_due(self) -> datetime | None:
        """When there is something to do; perhaps a little early."""
        return self._heap[0][0] if self._heap else None

    def jobs(self) -> dict[str, Schedule]:
        """All of them, as they were last read."""
        return {id: entry.job for id, entry in self._entries.items()}

    def put(self, job: Schedule) -> None:
        """This job as it is now, in place of what was known of it."""
        assert job.next_fire_at is not None
        entry = _Entry(job, job.timing.due(job.next_fire_at))
        self._entries[job.id] = entry
        heapq.heappush(self._heap, (entry.due, next(self._order), entry))

    def replace(self, shards: Collection[ShardId], found: Iterable[Schedule]) -> None:
        """All jobs of these shards, as they were just read."""
        present = {job.id: job for job in found}
        for id in [id for id, e in self._entries.items() if e.job.shard in shards and id not in present]:
            del self._entries[id]
        for job in present.values():
            known = self._entries.get(job.id)
            if known is None or _as_planned(known.job) != _as_planned(job):
                self.put(job)

    def forget(self, shards: Collection[ShardId]) -> None:
        for id in [id for id, entry in self._entries.items() if entry.job.shard in shards]:
            del self._entries[id]

    def pop_due(self, now: datetime, *, most: int) -> list[Schedule]:
        """Up to `most` jobs that are due; they are not in it any more."""
        due: list[Schedule] = []
        while self._heap and self._heap[0][0] <= now and len(due) < most:
            entry = heapq.heappop(self._heap)[2]
            if self._entries.get(entry.job.id) is entry:
                del self._entries[entry.job.id]
                due.append(entry.job)
        return due


def _as_planned(job: Schedule) -> tuple[int, datetime | None]:
    return job.version, job.next_fire_at
