"""A local copy of a subtree, kept current by one persistent recursive watch.

The watch is set before the first read, so nothing falls between. An event makes us read the changed
paths again, many in one request; a deletion needs no read. Values are applied by mzxid, deletions in
order of arrival. After a reconnect the watch is set again and everything compared: a gap is closed
by difference, never by silence. Watches give the latest value, not each one in between.

A tree in which every write also sets the root (`revised`) is compared by its root alone: where that
has not changed, nothing has. What was announced before the gap and not read yet is read after it; the
server announces a change before it answers any read with it, so a root that was read promises that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from engine.coordination.operations import Node
from engine.errors import AuthorityLost, Unavailable

_DELETED_EVENT = 2
_RETRY_SECONDS = 0.2
_REVISION_SECONDS = 0.02
"""How long the root of a revised tree, which nobody waits for, may wait to be read with what follows."""

Subscriber = Callable[[frozenset[str]], None]


class Source(Protocol):
    """What a replica needs of a session."""

    @property
    def connected(self) -> bool: ...

    async def watch_tree(self, path: str) -> None: ...

    async def get_many(self, paths: Sequence[str]) -> list[Node | None]: ...

    async def children_of_many(self, paths: Sequence[str]) -> list[list[str]]: ...

    async def sync(self, path: str) -> None: ...


class Replica:
    """Nodes by path relative to the root, which itself is ''.

    In the stat of a node that has children, `children` and `pzxid` are those of its last write:
    the birth of a child is an event of the child alone.
    """

    def __init__(
        self,
        source: Source,
        root: str,
        logger: logging.Logger,
        *,
        gather_seconds: float = 0.0,
        revised: bool = False,
    ) -> None:
        """`gather_seconds`: how long what was created or set may wait to be read with what follows.
        Deletions need no read, so they show at once in any case.

        `revised`: whoever writes below the root sets the root, last in the same transaction; only what
        vanishes with its session does not.
        """
        self.root = root
        self._gather_seconds = gather_seconds
        self._revised = revised
        self._revision: tuple[int, int] | None = None
        self._hurry = asyncio.Event()
        self._news = asyncio.Event()  # of more than the root, or somebody waits
        self._awaited = 0
        self._prefix = "" if root == "/" else root
        self._source = source
        self._logger = logger
        self._nodes: dict[str, Node] = {}
        self.nodes: Mapping[str, Node] = MappingProxyType(self._nodes)
        self._current = False
        self._connections = 0  # changes of the connection: a list made across one proves nothing
        self._subscribers: list[Subscriber] = []
        self._dirty: set[str] = set()
        self._deleted: set[str] = set()  # while a read is under way, whose answer may be older
        self._reading = False
        self._asked: frozenset[str] = frozenset()  # names that the read under way is about
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._round = 0
        self._round_ended = asyncio.Event()
        self._over = False
        self.complete = asyncio.Event()

    @property
    def current(self) -> bool:
        """False between a disconnection and the comparison that follows the reconnect."""
        return self._current and self._source.connected

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Call `callback` in the loop with the relative paths that were created, set or deleted."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    async def fresh(self) -> None:
        """Return when all that was written before this call is visible. Raises `Unavailable`."""
        await self._source.sync(self.root)
        await self.settled()

    def pending(self, name: str) -> bool:
        """Whether a change of this node was announced that subscribers have not been told of yet."""
        return name in self._dirty or name in self._asked or name in self._changed or not self._current

    async def settled(self) -> None:
        """Return when all that was announced before this call is visible, and subscribers have been told.
        Raises `Unavailable`."""
        # The events came before the reply. One round may be under way with older answers, so what
        # is dirty now has been read when the round after it has ended.
        target = self._round + 2
        self._hurry.set()
        self._news.set()
        self._awaited += 1
        try:
            while (self._dirty or self._reading or not self._current) and self._round < target:
                if self._over:
                    raise Unavailable(f"{self.root} is not followed any more")
                if not self._source.connected:
                    raise Unavailable("the connection to ZooKeeper broke")
                self._round_ended.clear()
                await self._round_ended.wait()
        finally:
            self._awaited -= 1
        if self._changed:
            await asyncio.sleep(0)  # their turn was asked for before ours

    # --- called by the session, in the loop -------------------------------------------------------

    def covers(self, path: str) -> bool:
        return path == self.root or path.startswith(self._prefix + "/")

    def on_event(self, kind: int, path: str) -> None:
        name = path[len(self._prefix) + 1 :]
        if kind == _DELETED_EVENT:
            self._remove(name)
            self._dirty.discard(name)
            if self._reading:
                self._deleted.add(name)
            if self._revised and name:  # nobody sets the root for an entry that went with its session
                self._dirty.add("")
                self._wake.set()
        else:
            self._dirty.add(name)
            self._wake.set()
            if name:
                self._news.set()

    def learn(self, written: Mapping[str, Node]) -> None:
        """What the reply to our own write says, by path, in the turn of the loop in which it came. It was
        announced, as all before it, before the reply, and what comes after it is announced after: so what
        was announced of these nodes until now need not be read. For revised trees, whose writers wait."""
        if not (self._revised and self.current):
            return
        for path, node in written.items():
            name = path[len(self._prefix) + 1 :]
            self._dirty.discard(name)
            self._put(name, node)
            if not name:
                self._revision = _revision_of(node)

    def on_connection(self, connected: bool) -> None:
        """The server forgets our watch with the connection."""
        self._current = False
        self._connections += 1
        self._wake.set()
        self._round_ended.set()

    async def run(self) -> None:
        """Keep the copy current until cancelled or the session ends."""
        try:
            await self._follow()
        finally:
            self._over = True
            self._round_ended.set()

    async def _follow(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                if self._source.connected:
                    await self._catch_up()
            except AuthorityLost:
                return
            except Unavailable as error:
                self._logger.debug("replica=%s waits: %s", self.root, error)
                self._reading = False
                self._asked = frozenset()
                if self._source.connected:  # the server refused; without a reconnect nobody wakes us
                    await asyncio.sleep(_RETRY_SECONDS)
                    self._wake.set()
            finally:
                self._round_ended.set()

    def start(self) -> None:
        self._wake.set()

    # --- reading ----------------------------------------------------------------------------------

    async def _catch_up(self) -> None:
        if not self._current:
            await self._resync()
        while self._dirty and self._current:
            await self._gather()
            names = list(self._dirty)
            self._dirty.clear()
            self._begin_read(names)
            try:
                found = await self._source.get_many([self._path(name) for name in names])
            except BaseException:
                self._dirty.update(names)
                raise
            self._apply(zip(names, found, strict=True))

    async def _gather(self) -> None:
        if self._gather_seconds:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._gather_seconds):
                    await self._hurry.wait()
            self._hurry.clear()
        self._news.clear()
        if self._revised and not self._awaited and self._dirty == {""}:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REVISION_SECONDS):
                    await self._news.wait()

    async def _resync(self) -> None:
        """List the whole subtree and apply the difference; nothing to list where the revision stands."""
        connections = self._connections
        self._begin_read()
        announced = frozenset(self._dirty)
        self._dirty.clear()
        try:
            await self._source.watch_tree(self.root)
            unchanged = await self._is_unchanged()
            found = {} if unchanged else await self._list()
        except BaseException:
            self._dirty |= announced
            raise
        if connections != self._connections:
            self._dirty |= announced
            self._wake.set()
            return
        self._current = True
        if unchanged:
            self._dirty |= announced
            self._apply(())
        else:
            gone = self._nodes.keys() - found.keys()
            self._apply([*found.items(), *((name, None) for name in gone)])
        self.complete.set()

    async def _is_unchanged(self) -> bool:
        revision, self._revision = self._revision, None
        if revision is None:
            return False
        (root,) = await self._source.get_many([self.root])
        if root is None or _revision_of(root) != revision:
            return False
        self._revision = revision
        return True

    async def _list(self) -> dict[str, Node]:
        found: dict[str, Node] = {}
        level = [""]
        while level:
            nodes = await self._source.get_many([self._path(name) for name in level])
            here = {name: node for name, node in zip(level, nodes, strict=True) if node is not None}
            found |= here
            parents = [name for name, node in here.items() if node.stat.children]
            families = await self._source.children_of_many([self._path(name) for name in parents])
            level = [
                f"{parent}/{child}" if parent else child
                for parent, family in zip(parents, families, strict=True)
                for child in family
            ]
        return found

    def _path(self, name: str) -> str:
        return f"{self._prefix}/{name}" if name else self.root

    # --- applying ---------------------------------------------------------------------------------

    def _begin_read(self, names: Iterable[str] = ()) -> None:
        self._reading = True
        self._asked = frozenset(names)
        self._deleted.clear()

    def _apply(self, answers: Iterable[tuple[str, Node | None]]) -> None:
        for name, node in answers:
            if name in self._deleted:
                # Deleted after the question: the answer may be from before. Ask again.
                self._dirty.add(name)
                self._wake.set()
            elif node is None:
                self._remove(name)
            else:
                self._put(name, node)
                if self._revised and not name:
                    self._revision = _revision_of(node)
        self._reading = False
        self._asked = frozenset()
        self._round += 1
        self._round_ended.set()

    def _put(self, name: str, node: Node) -> None:
        known = self._nodes.get(name)
        if known is not None:
            same = known.stat.czxid == node.stat.czxid and known.stat.mzxid == node.stat.mzxid
            if same or node.stat.mzxid < known.stat.mzxid:
                return
        self._nodes[name] = node
        self._tell(name)

    def _remove(self, name: str) -> None:
        if self._nodes.pop(name, None) is not None:
            self._tell(name)

    def _tell(self, name: str) -> None:
        if not self._changed:
            asyncio.get_running_loop().call_soon(self._notify)
        self._changed.add(name)

    def _notify(self) -> None:
        changed = frozenset(self._changed)
        self._changed.clear()
        for subscriber in list(self._subscribers):
            try:
                subscriber(changed)
            except Exception:  # one subscriber's fault must not keep the news from the others
                self._logger.exception("replica=%s: a subscriber failed", self.root)


def _revision_of(root: Node) -> tuple[int, int]:
    """Grows with each write that sets the root, and with each child's birth and end."""
    return root.stat.mzxid, root.stat.pzxid
