"""The entries of one map as this process knows them, and those who listen to their changes.

They outlive ZooKeeper sessions: what changed while one session was over and the next not yet there shows
as a difference. Invariant: of one key every listener is told changes in the order of their versions, each
beginning where the one before ended; changes faster than the listener are merged.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

import msgspec

from engine.coordination.operations import Node, Stat
from engine.plugin import Changed, Versioned
from engine.state.keys import BIRTHS, key_of, node_of

LOG = logging.getLogger(__name__)

V = TypeVar("V")

_NODE_VERSION_BITS = 31


def version_of(czxid: int, node_version: int) -> int:
    """Grows with each write of a key, also over its removal and new birth, where the node's own version
    begins again at 0."""
    return czxid << _NODE_VERSION_BITS | node_version


class Entry:
    """What a conditional write needs to know of an entry: its node's stat, read in our words."""

    __slots__ = ("stat",)

    def __init__(self, stat: Stat) -> None:
        self.stat = stat

    @property
    def version(self) -> int:
        return version_of(self.stat.czxid, self.stat.version)

    @property
    def node_version(self) -> int:
        return self.stat.version

    @property
    def session(self) -> int:
        """That it vanishes with; 0: none."""
        return self.stat.ephemeral_owner


class Changes(Generic[V]):
    """An async iterator over the changes from its making on; `aclose` ends it, as does forgetting it."""

    def __init__(self, entries: Entries[V]) -> None:
        self._entries = entries
        self._before: dict[str, Versioned[V] | None] = {}
        self._news = asyncio.Event()
        self._closed = False

    def note(self, key: str, before: Versioned[V] | None) -> None:
        """The key is about to be, or was just, changed from `before`."""
        if key not in self._before:
            self._before[key] = before
            self._news.set()

    def __aiter__(self) -> Changes[V]:
        return self

    async def __anext__(self) -> Changed[V]:
        while not self._closed:
            while self._before:
                key = next(iter(self._before))
                old, new = self._before.pop(key), self._entries.versioned(key)
                if old != new:
                    return Changed(key, old, new)
            self._news.clear()
            await self._news.wait()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Nothing more comes; whoever waits for the next change is let go."""
        self.end()

    def end(self) -> None:
        self._closed = True
        self._entries.listeners.discard(self)
        self._news.set()


class Entries(Generic[V]):
    """`values` is what a read reads; the rest is kept beside it."""

    def __init__(self, name: str, kind: type[V]) -> None:
        self.name = name
        self.values: dict[str, V] = {}
        self.known: dict[str, Stat] = {}
        """Of all nodes, also of those whose value makes no sense."""
        self.births = -1
        """How often a key was born in this map."""
        self.listeners: weakref.WeakSet[Changes[V]] = weakref.WeakSet()
        self._decode = msgspec.json.Decoder(kind).decode

    def entry(self, key: str) -> Entry | None:
        stat = self.known.get(key)
        return Entry(stat) if stat is not None else None

    def versioned(self, key: str) -> Versioned[V] | None:
        if key not in self.values:
            return None
        stat = self.known[key]
        return Versioned(self.values[key], version_of(stat.czxid, stat.version))

    def begin_anew(self, nodes: Mapping[str, Node]) -> None:
        """All there is, after a time in which nothing was seen; the tree may be another one."""
        if self.known:
            present = {key_of(name) for name in nodes if name and name != BIRTHS}
            self._remove([key for key in self.known if key not in present])
            for key, stat in list(self.known.items()):
                now = nodes[node_of(key)].stat
                if (now.czxid, now.version) < (stat.czxid, stat.version):
                    self._remove([key])
        self.absorb(nodes, nodes)

    def absorb(self, names: Iterable[str], nodes: Mapping[str, Node]) -> None:
        """Take over what `names` have become."""
        told = bool(self.listeners)
        for name in names:
            node = nodes.get(name)
            if name == BIRTHS:
                self.births = node.stat.version if node is not None else -1
            elif not name or "/" in name:
                continue
            elif node is None:
                self._remove([key_of(name)])
            else:
                self._put(key_of(name), node, told)

    def _put(self, key: str, node: Node, told: bool) -> None:
        stat, before = node.stat, self.known.get(key)
        if before is not None and (before.czxid, before.version) >= (stat.czxid, stat.version):
            return
        try:
            value = self._decode(node.data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            LOG.warning("map=%s key=%s: left out, it holds no such value: %s", self.name, key, error)
            self._remove([key])
            self.known[key] = stat
            return
        if told:
            self._note(key)
        self.known[key] = stat
        self.values[key] = value

    def _remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._note(key)
            self.known.pop(key, None)
            self.values.pop(key, None)

    def _note(self, key: str) -> None:
        if self.listeners:
            before = self.versioned(key)
            for listener in self.listeners:
                listener.note(key, before)
