"""What stands in the way of a taker: the node of a key, read, and the hold that it leads to.

What was seen is remembered: what a hold says stays true of it, and where somebody was refused lately, the
next one reads before he writes, and whoever is ready to wait goes to the line at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TypeVar

from engine.coordination.operations import MalformedNode, Node
from engine.coordination.session import Session
from engine.errors import NotFound
from engine.locks.holds import AlreadyHeld, HoldView, LockRefused
from engine.locks.keys import Key, Mode
from engine.locks.transactions import HANDED_VERSION, SHARED_VERSION, Found, Orphaned
from engine.locks.watches import Bell, Watches

_REMEMBERED = 1000

T = TypeVar("T")


class Sight:
    """Of one session. `tasks` says which task took a hold of it, so that it is told when it asks again."""

    def __init__(
        self,
        session: Session,
        watches: Watches,
        *,
        incarnation: int,
        tasks: Mapping[str, asyncio.Task[object] | None],
    ) -> None:
        self._session = session
        self._watches = watches
        self._incarnation = incarnation
        self._tasks = tasks
        self._seen: dict[str, HoldView] = {}
        self._contended: dict[Key, tuple[Mode, HoldView]] = {}

    def contended(self, keys: Iterable[Key]) -> LockRefused | None:
        """What was lately said to one who asked for one of these."""
        for key in keys if self._contended else ():
            if key in self._contended:
                return LockRefused(key, *self._contended[key])
        return None

    async def look_first(self, key: Key, mode: Mode) -> None:
        """Where a try was refused lately, a read finds out for half the price of a transaction; the
        `sync` sent before it makes it see all that was written before."""
        catching_up = asyncio.create_task(self._session.sync(self._session.paths.lock(key)))
        await asyncio.sleep(0)  # now it is on its way; the read follows without waiting for the answer
        try:
            await self.look(key, mode)
        finally:
            await catching_up

    async def look(
        self, key: Key, mode: Mode, *, mine: str = "", bell: Bell | None = None
    ) -> Found | Orphaned:
        """What a taker in `mode` finds. Raises `LockRefused`; `bell` then rings when that may have
        changed. Raises `Received` when the key has been handed to `mine`."""
        path, watch = self._session.paths.lock(key), bell is not None
        orphan = -1
        while True:
            node = await self._session.get(path, watch=watch)
            if node is None:
                return Found.ABSENT
            if node.stat.version != SHARED_VERSION:
                nonce, held = node.data.decode("utf-8", "replace"), Mode.EXCLUSIVE
                if nonce == mine:
                    raise Received(key, node)
            elif mode is Mode.SHARED:
                return Found.SHARED
            else:
                names = await self._sharers(path, watch) if watch or node.stat.children else []
                if not names:
                    return Found.EMPTY
                nonce, held = names[0], Mode.SHARED
            if node.stat.version == HANDED_VERSION and await self._gone(nonce, bell):
                if orphan == node.stat.czxid:
                    return Orphaned(nonce, emptied=not node.stat.children)
                orphan = node.stat.czxid  # released between our two reads, most likely
                continue
            holder = await self._holder(nonce)
            if holder is None and orphan != node.stat.czxid:
                orphan = node.stat.czxid  # released between our two reads, most likely
                continue
            holder = holder or HoldView.unknown(nonce, key, held)
            if self._tasks.get(nonce) is asyncio.current_task() and nonce in self._tasks:
                raise AlreadyHeld(key, held, holder)
            _remember(self._contended, key, (held, holder))
            raise LockRefused(key, held, holder)

    async def _gone(self, nonce: str, bell: Bell | None) -> bool:
        """Of one that a key was handed to: that node stays when his session ends, so his hold is watched."""
        path = self._session.paths.hold(nonce)
        if bell is not None:
            self._watches.hang(bell, path)
        return await self._session.exists(path, watch=bell is not None) is None

    def uncontended(self, keys: Iterable[Key]) -> None:
        if self._contended:
            for key in keys:
                self._contended.pop(key, None)

    async def _sharers(self, path: str, watch: bool) -> list[str]:
        try:
            return await self._session.children(path, watch=watch)
        except NotFound:
            return []

    async def _holder(self, nonce: str) -> HoldView | None:
        if nonce not in self._seen:
            node = await self._session.get(self._session.paths.hold(nonce))
            view = self.view(nonce, node) if node is not None else None
            if view is None:
                return None
            _remember(self._seen, nonce, view)
        return self._seen[nonce]

    def view(self, nonce: str, node: Node) -> HoldView | None:
        try:
            return HoldView.from_node(nonce, node, incarnation=self._incarnation)
        except MalformedNode:
            return None


class Received(Exception):
    """The key of `node` is held by who looks."""

    def __init__(self, key: Key, node: Node) -> None:
        super().__init__(key)
        self.zxid = node.stat.czxid
        self.handed = frozenset({key} if node.stat.version == HANDED_VERSION else ())


def _remember(where: dict[str, T], name: str, value: T) -> None:
    """The oldest goes."""
    if name not in where and len(where) >= _REMEMBERED:
        del where[next(iter(where))]
    where[name] = value
