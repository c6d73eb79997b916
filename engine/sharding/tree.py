"""The tree that shards live in: its incarnation, and a node for each shard.

A tree that was wiped, or restored to the past, must not bring old epochs back. So each has a random
id, counted in the database; a tree whose number is not the newest gets a new id before anything is
claimed in it. After a new incarnation nobody claims until every authority from before is over: the
node says `settled: false` till then, so that who comes later need not wait again, and every claim is
held to the node's version.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable

import orjson

from engine.coordination.operations import Create, MalformedNode, Node, Reason, Rejected, SetData
from engine.coordination.session import Session
from engine.plugin import ShardId
from engine.sharding.board import UNCLAIMED
from engine.sharding.store import EpochStore, Incarnation

LOG = logging.getLogger(__name__)

_BATCH = 200


class Tree:
    """`prepare` first; then `incarnation` and `version` are what claims are held to."""

    def __init__(
        self,
        session: Session,
        store: EpochStore,
        *,
        shards: int,
        quiet_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._session = session
        self._store = store
        self._shards = shards
        self._quiet_seconds = quiet_seconds
        self._clock = clock
        self._settled = False
        self.incarnation: Incarnation
        self.version = -1
        self.quiet_until = float("-inf")
        """Nothing may be claimed before this, on the clock, by this engine."""

    async def prepare(self) -> None:
        """Make what is missing. Several engines may do so at once."""
        await self._session.ensure(self._session.paths.root)
        await self.meet()
        await self._session.ensure(self._session.paths.shards)
        await self._make_shards()

    async def meet(self) -> None:
        """Read the incarnation, count it, and replace it when the database knows a later one."""
        path = self._session.paths.incarnation
        while True:
            node = await self._session.get(path)
            if node is None:
                await self._attempt(Create(path, _content(str(uuid.uuid4()), settled=False)))
                continue
            id, settled = _parsed(node)
            known = await self._store.register_incarnation(id)
            if known.number != known.newest:
                LOG.warning("ZooKeeper holds tree %d of %d: it was restored", known.number, known.newest)
                await self.replace(node.stat.version)
                continue
            break
        if self.version < 0 or known.id != self.incarnation.id:
            LOG.info("tree incarnation=%d id=%s settled=%s", known.number, id, settled)
            # Nobody can hold authority from before the first tree.
            wait = self._quiet_seconds if known.number > 1 else 0.0
            self.quiet_until = self._clock() + wait
        self.incarnation, self.version, self._settled = known, node.stat.version, settled
        if settled:
            self.quiet_until = min(self.quiet_until, self._clock())
        else:
            await self.settle()

    async def settle(self) -> bool:
        """Tell everybody that the wait is over, if it is; return whether this engine may claim."""
        if self._clock() < self.quiet_until:
            return False
        if not self._settled:
            path = self._session.paths.incarnation
            content = _content(self.incarnation.id, settled=True)
            if await self._attempt(SetData(path, content, self.version)):
                self.version, self._settled = self.version + 1, True
            else:
                await self.meet()
        return self._clock() >= self.quiet_until

    async def replace(self, version: int) -> None:
        """Give the tree a new id, unless somebody else has changed it since `version`."""
        path = self._session.paths.incarnation
        await self._attempt(SetData(path, _content(str(uuid.uuid4()), settled=False), version))

    async def _attempt(self, operation: Create | SetData) -> bool:
        """Whether it held; not holding means that another engine was first."""
        try:
            await self._session.commit(operation)
        except Rejected as error:
            if error.reason in (Reason.EXISTS, Reason.VERSION, Reason.ABSENT):
                return False
            raise
        return True

    async def _make_shards(self) -> None:
        paths = self._session.paths
        while True:
            present = set(await self._session.children(paths.shards))
            missing = [n for n in range(self._shards) if f"{n:04d}" not in present]
            if not missing:
                return
            for start in range(0, len(missing), _BATCH):
                batch = missing[start : start + _BATCH]
                try:
                    await self._session.commit(*(Create(paths.shard(ShardId(n)), UNCLAIMED) for n in batch))
                except Rejected as error:
                    if error.reason is not Reason.EXISTS:
                        raise
                    break  # another engine makes them too: see what is left


def _content(id: str, *, settled: bool) -> bytes:
    return orjson.dumps({"id": id, "settled": settled})


def _parsed(node: Node) -> tuple[str, bool]:
    value = node.json()
    if not isinstance(value, dict) or not isinstance(value.get("id"), str):
        raise MalformedNode(f"/incarnation holds {value!r}, not an object with an `id`")
    return value["id"], value.get("settled") is True
