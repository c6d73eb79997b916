"""kazoo's SetPartitioner, driven from asyncio: its own code in its own threads, its states here.

It runs in the session's kazoo client and stops everything at each change of its party; what it does
not know of (authority, epochs) is added by whoever uses its partition.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from kazoo.exceptions import KazooException
from kazoo.recipe.partitioner import SetPartitioner

from engine.coordination.session import Session
from engine.errors import Unavailable
from engine.plugin import PartitionState


class _Signal:
    """Stands where kazoo expects an event object; rings in the loop."""

    def __init__(self, session: Session, changed: asyncio.Event) -> None:
        self._session = session
        self._changed = changed

    def set(self) -> None:
        self._session.post(self._changed.set)


class SetPartition:
    """One member's part of a set. `changed` is set at each change of state; clear it, then look."""

    def __init__(self, partitioner: Any, changed: asyncio.Event) -> None:
        self._partitioner = partitioner
        self.changed = changed

    @classmethod
    @contextlib.asynccontextmanager
    async def joined(
        cls,
        session: Session,
        path: str,
        items: Iterable[str],
        *,
        identifier: str,
        time_boundary_seconds: float = 1.0,
        max_reaction_seconds: float = 1.0,
    ) -> AsyncIterator[SetPartition]:
        """Join the party at `path`; leave it with the context. Raises `Unavailable`."""
        changed = asyncio.Event()

        def join() -> Any:
            return SetPartitioner(
                session.recipe_client,
                path,
                tuple(items),
                identifier=identifier,
                time_boundary=time_boundary_seconds,
                max_reaction_time=max_reaction_seconds,
                state_change_event=_Signal(session, changed),
            )

        try:
            partitioner = await asyncio.to_thread(join)
        except KazooException as error:
            raise Unavailable(f"could not join the party at {path}: {type(error).__name__}") from error
        partition = cls(partitioner, changed)
        try:
            yield partition
        finally:
            await partition.finish()

    @property
    def state(self) -> PartitionState:
        """At this instant. FAILURE is final: leave the context and join again."""
        return PartitionState(self._partitioner.state)

    @property
    def partition(self) -> frozenset[str]:
        """What this member holds; empty unless the state is ACQUIRED."""
        if self.state is not PartitionState.ACQUIRED:
            return frozenset()
        return frozenset(self._partitioner)

    async def release_set(self) -> None:
        """The answer to RELEASE: everything has been let go of. A new allocation begins."""
        await asyncio.to_thread(_twice, self._partitioner.release_set)

    async def finish(self) -> None:
        """Release all and leave the party. Idempotent."""
        await asyncio.to_thread(_twice, self._partitioner.finish)


def _twice(release: Callable[[], None]) -> None:
    try:
        release()
    except ValueError:  # kazoo's allocating thread released the same lock meanwhile
        release()
