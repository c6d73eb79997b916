"""Lines of contenders in kazoo's nodes, `<uuid>__lock__<sequence>`, watched whole: many in one replica.

A line holds one node a contender, the first one leads. Others' nodes, stock kazoo's too, are contenders
like ours. How long one has been there is told by this process's own clock, from when it was first seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass

from engine.clock import boottime
from engine.coordination.operations import Node
from engine.coordination.replica import Replica
from engine.coordination.session import Session

MARK = "__lock__"
_CONTENDER = re.compile(rf"{MARK}(-?\d{{10}})$")


@dataclass(frozen=True, slots=True)
class Contender:
    """One in the line. `identifier` is what it says of itself, `here_seconds` how long it has been seen."""

    node: str
    identifier: str
    here_seconds: float


class Lines:
    """The lines below one node, by their names."""

    def __init__(self, replica: Replica, clock: Callable[[], float] = boottime) -> None:
        self._replica = replica
        self._clock = clock
        self._refreshing: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._seen: dict[str, dict[str, float]] = {}
        self._listeners: dict[str, list[Callable[[], None]]] = {}
        self._head_listeners: list[Callable[[], None]] = []
        self._read(replica.nodes)

    @classmethod
    @contextlib.asynccontextmanager
    async def watching(cls, session: Session, root: str) -> AsyncIterator[Lines]:
        """The lines below `root`, which exists."""
        async with session.replica(root) as replica:
            lines = cls(replica)
            unsubscribe = replica.subscribe(lines._changed)
            try:
                yield lines
            finally:
                unsubscribe()

    @property
    def root(self) -> str:
        return self._replica.root

    @property
    def current(self) -> bool:
        """Nothing is missing of what our server has."""
        return self._replica.current

    async def fresh(self) -> None:
        """Return when all that was written before is seen. Raises `Unavailable`.

        Many ask at once when an engine starts; those who ask while one answer is awaited share the next.
        """
        if self._following is None:
            self._following = asyncio.create_task(self._refresh(self._refreshing), name="lines")
            self._following.add_done_callback(_retrieve)
        await asyncio.shield(self._following)

    async def _refresh(self, former: asyncio.Task[None] | None) -> None:
        if former is not None:
            await asyncio.wait({former})
        self._refreshing, self._following = self._following, None
        await self._replica.fresh()

    def subscribe(self, line: str, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when that line, or its own node, has changed; returns the unsubscribe."""
        listeners = self._listeners.setdefault(line, [])
        listeners.append(callback)
        return lambda: listeners.remove(callback)

    def subscribe_heads(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when the own nodes of lines have changed; returns the unsubscribe."""
        self._head_listeners.append(callback)
        return lambda: self._head_listeners.remove(callback)

    def names(self) -> Iterator[str]:
        """Of all lines that exist."""
        return (name for name in self._replica.nodes if name and "/" not in name)

    def head(self, line: str) -> Node | None:
        """The node of the line itself."""
        return self._replica.nodes.get(line)

    def nodes(self, line: str) -> list[str]:
        """The contenders' nodes, the leader's first."""
        return in_line(self._seen.get(line, ()))

    def behind(self, line: str, node: str) -> list[Contender]:
        """Those who stand behind `node`, in their order; none where it is not in the line."""
        nodes = self.nodes(line)
        if node not in nodes:
            return []
        return [self._contender(line, other) for other in nodes[nodes.index(node) + 1 :]]

    def _contender(self, line: str, node: str) -> Contender:
        data = self._replica.nodes[f"{line}/{node}"].data
        here = self._clock() - self._seen[line][node]
        return Contender(node, data.decode("utf-8", "replace"), here)

    def _changed(self, names: frozenset[str]) -> None:
        listeners = [listener for line in self._read(names) for listener in self._listeners.get(line, ())]
        if any("/" not in name for name in names):
            listeners += self._head_listeners
        for listener in listeners:
            listener()

    def _read(self, names: Iterable[str]) -> set[str]:
        """Take note of these nodes; the lines that they belong to."""
        touched: set[str] = set()
        for path in names:
            line, _, node = path.partition("/")
            touched.add(line)
            if not node:
                continue
            if path in self._replica.nodes:
                self._seen.setdefault(line, {}).setdefault(node, self._clock())
            elif line in self._seen:
                self._seen[line].pop(node, None)
        return touched


def _retrieve(task: asyncio.Task[None]) -> None:
    """Whoever asked has been told, or was cancelled."""
    if not task.cancelled():
        task.exception()


def in_line(names: Iterable[str]) -> list[str]:
    """The contenders among `names`, first come first. Other nodes are no contenders."""
    found = ((match.group(1), name) for name in names if (match := _CONTENDER.search(name)))
    return [name for _, name in sorted(found)]
