"""The shards in this engine's hands: won, adopted, released, let go, or lost.

A shard is ours once its node is (a transaction on /shards) *and* its row bears our epoch; work starts
after both and stops before the node is let go. Whoever loses the row although the node is ours was
overtaken, or ZooKeeper was restored to the past. Claims and releases of many shards run beside each
other; `ownership.py` decides which, and is told through `Reports`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Any, Protocol

from engine.coordination.session import Session
from engine.errors import AuthorityLost, EngineError, Fenced, Unavailable
from engine.plugin import EngineId, ShardId
from engine.sharding.board import Board, Seat
from engine.sharding.claims import RELEASE_BATCH, Claims, Versions
from engine.sharding.store import EpochStore
from engine.sharding.tenure import OwnedShard, Phase, ShardAuthority, ShardWork, Tenure
from engine.sharding.tree import Tree

LOG = logging.getLogger(__name__)

DATABASE_FRESH_SECONDS = 1.0
TAKE_BATCH = 500
"""So many rows are taken at once, though claims are under way: a few milliseconds' work."""


class Reports(Protocol):
    """What `Holdings` tells to whom decides."""

    def plan_again(self, *, urgent: bool) -> None:
        """Something changed hands."""

    def put_off(self, error: EngineError) -> None:
        """Nothing can be taken now; try again in a while."""


class Holdings:
    """`tenures` are all shards that are ours in any phase; `claiming` are being asked for."""

    def __init__(
        self,
        *,
        engine: EngineId,
        session: Session,
        board: Board,
        tree: Tree,
        store: EpochStore,
        work: ShardWork,
        handover_seconds: Callable[[], float],
        reports: Reports,
    ) -> None:
        self._me = engine
        self._session = session
        self._board = board
        self._tree = tree
        self._store = store
        self._work = work
        self._handover_seconds = handover_seconds
        self._reports = reports
        self._claims = Claims(session, engine)
        self._tenures: dict[ShardId, Tenure] = {}
        self._owned: dict[ShardId, OwnedShard] = {}
        self._claiming: set[ShardId] = set()
        self._to_take: list[Tenure] = []
        self._taking = False
        self._doubtful: set[ShardId] = set()
        self._predecessors: dict[int, EngineId] = {}
        self._ended: set[int] = set()
        self.owned: Mapping[ShardId, OwnedShard] = MappingProxyType(self._owned)
        """What this engine acts for at this moment."""

    @property
    def shards(self) -> frozenset[ShardId]:
        """Held in any phase, or being claimed."""
        return frozenset(self._tenures.keys() | self._claiming)

    @property
    def doubtful(self) -> bool:
        """`settle_doubts` has something to do."""
        return bool(self._doubtful)

    # --- taking -------------------------------------------------------------------------------------

    def claim(self, seats: Sequence[Seat]) -> Coroutine[Any, Any, None]:
        """Try to own free seats: the nodes' half, then the rows', then the work. They count as `shards`
        from this call on, not only when what it returns is awaited."""
        self._claiming.update(seat.shard for seat in seats)
        return self._claim(seats)

    async def _claim(self, seats: Sequence[Seat]) -> None:
        tree = self._tree.incarnation
        try:
            await self._store.require_fresh(DATABASE_FRESH_SECONDS)
            won = await self._claims.claim(seats, self._tree.version)
            self._to_take += [self._begin(shard, tree.epoch(v), v) for shard, v in won.items()]
            self._predecessors |= {
                seat.last_session: seat.last_owner
                for seat in seats
                if seat.last_owner and seat.last_session and seat.shard in won
            }
        except Unavailable as error:
            self._reports.put_off(error)
        finally:
            self._claiming.difference_update(seat.shard for seat in seats)
        # What became of a shard while it was being claimed was passed over then. What has not changed
        # yet will be told: no need to ask again for what was just refused.
        seats_now = self._board.seats
        refused = [seat for seat in seats if seat.shard not in self._tenures]
        self._reports.plan_again(urgent=any(seats_now.get(seat.shard) is not seat for seat in refused))
        if not self._taking:
            await self._take_all()

    async def _take_all(self) -> None:
        """The rows' half, in one transaction for all claims that are under way: the heirs of an engine
        write at the same time, and each transaction more is one more wait for the other's."""
        self._taking = True
        try:
            while self._to_take and (not self._claiming or len(self._to_take) >= TAKE_BATCH):
                tenures, self._to_take = self._to_take, []
                await self._take([t for t in tenures if not t.authority.over])
        finally:
            self._taking = False

    def _begin(self, shard: ShardId, epoch: int, version: int) -> Tenure:
        authority = ShardAuthority(shard, self._session.authority)
        tenure = Tenure(OwnedShard(shard, epoch, version, authority), authority)
        self._tenures[shard] = tenure
        seat = self._board.seats.get(shard)
        if seat is not None and seat.version >= version:  # the replica was quicker than the reply
            tenure.seen = seat.owner_session == self._session.identity.session_id
            if not tenure.seen:
                self._doubtful.add(shard)
        return tenure

    async def _take(self, tenures: Sequence[Tenure]) -> None:
        epochs = {t.owned.shard: t.owned.epoch for t in tenures}
        if not epochs:
            return
        try:
            await self._end_predecessors()
            kept = await self._store.take(epochs, self._me)
            await self._adopt([t for t in tenures if t.owned.shard in kept and not t.authority.over])
        except (Unavailable, AuthorityLost) as error:  # no authority while the connection is broken
            self._reports.put_off(error)
            self._work.abandon([t.owned for t in tenures if t.phase is Phase.ADOPTING])
            await self._leave(tenures, "it could not be taken")
            return
        if lost := [t for t in tenures if t.owned.shard not in kept]:
            await self._overtaken(lost)

    async def _end_predecessors(self) -> None:
        """A frozen engine's open transaction holds rows that its heir has to write. Only once its member
        node is gone: whoever hands over is alive, and finishes what it has begun."""
        for session, engine in list(self._predecessors.items()):
            if session not in self._ended:
                member = await self._session.exists(self._session.paths.member(engine))
                if member is None or member.ephemeral_owner != session:
                    if ended := await self._store.end_backends(session):
                        LOG.info("ended %d transactions of engine=%s session=%x", ended, engine, session)
                    self._ended.add(session)
            del self._predecessors[session]  # only now: whoever could not be looked at is looked at again

    async def _adopt(self, tenures: Sequence[Tenure]) -> None:
        if not tenures:
            return
        for tenure in tenures:
            tenure.phase = Phase.ADOPTING
            self._owned[tenure.owned.shard] = tenure.owned
        await self._work.adopt([t.owned for t in tenures])
        LOG.info("owned engine=%s shards=%s", self._me, _told(t.owned.shard for t in tenures))
        for tenure in tenures:
            if tenure.authority.over:  # lost while its work was being started
                self._work.abandon([tenure.owned])
            else:
                tenure.phase = Phase.OWNED
        self._reports.plan_again(urgent=False)

    async def _overtaken(self, tenures: Sequence[Tenure]) -> None:
        """The rows bear greater epochs. Either somebody was here after us, or the tree is an old one."""
        restored = await self._claims.still_mine(_versions(tenures))
        await self._leave(tenures, "a later epoch stands in the database")
        told = _told(t.owned.shard for t in tenures)
        if not restored:
            raise Fenced(f"a later owner was here: shards {told}")
        LOG.warning(
            "ZooKeeper was restored to the past: new incarnation. engine=%s shards=%s", self._me, told
        )
        await self._tree.replace(self._tree.version)  # every engine is told by the node

    # --- letting go ---------------------------------------------------------------------------------

    def giving_up(self, wanted: Set[ShardId]) -> Iterator[Sequence[Tenure]]:
        """Batches of what is owned and not `wanted`; `release` each."""
        unwanted = [t for s, t in self._tenures.items() if s not in wanted and t.phase is Phase.OWNED]
        for start in range(0, len(unwanted), RELEASE_BATCH):
            batch = unwanted[start : start + RELEASE_BATCH]
            for tenure in batch:
                tenure.phase = Phase.RELEASING
            yield batch

    async def release(self, tenures: Sequence[Tenure], *, session_closes: bool = False) -> None:
        """Hand over: the work stops first, the owner children go last.

        Where the `session_closes` right after, its end lets all of them go in one transaction.
        """
        try:
            async with asyncio.timeout(self._handover_seconds()):
                await self._work.release([t.owned for t in tenures])
        except (TimeoutError, AuthorityLost):
            LOG.warning(
                "work did not end in order for a handover and is cut off. engine=%s shards=%s",
                self._me,
                _told(t.owned.shard for t in tenures),
            )
            self._work.abandon([t.owned for t in tenures if not t.authority.over])
        await self._leave(tenures, "it was handed over", nodes=not session_closes)
        LOG.info("released engine=%s shards=%s", self._me, _told(t.owned.shard for t in tenures))

    async def _leave(self, tenures: Sequence[Tenure], why: str, *, nodes: bool = True) -> None:
        ours = [t for t in tenures if not t.authority.over]
        for tenure in ours:
            tenure.phase = Phase.LEAVING
            tenure.authority.end(why)
            self._owned.pop(tenure.owned.shard, None)
        if nodes:
            await self._claims.let_go(_versions(ours))
        for tenure in tenures:
            if self._tenures.get(tenure.owned.shard) is tenure:
                del self._tenures[tenure.owned.shard]
        self._reports.plan_again(urgent=False)

    def _lose(self, tenures: Sequence[Tenure], why: str) -> None:
        """The owner children are gone without our doing: stop at once."""
        if not tenures:
            return
        LOG.warning("lost engine=%s shards=%s: %s", self._me, _told(t.owned.shard for t in tenures), why)
        started = [t.owned for t in tenures if t.phase is not Phase.TAKING]
        for tenure in tenures:
            tenure.authority.end(why)
            self._owned.pop(tenure.owned.shard, None)
            if tenure.phase is Phase.RELEASING:
                # Its work is still being stopped, and that must not stop what a new claim begins.
                tenure.phase = Phase.LEAVING
            else:
                self._tenures.pop(tenure.owned.shard, None)
        self._work.abandon(started)

    def abandon_all(self, why: str) -> None:
        """Synchronously, with no I/O. What is being let go has stopped already."""
        self._lose([t for t in self._tenures.values() if t.phase is not Phase.LEAVING], why)

    # --- being told ---------------------------------------------------------------------------------

    def compare(self, touched: Iterable[ShardId]) -> None:
        """The board has changed for these: end at once what is no longer ours."""
        gone = []
        for tenure in (self._tenures[shard] for shard in touched if shard in self._tenures):
            seat = self._board.seats.get(tenure.owned.shard)
            if tenure.phase is Phase.LEAVING:
                continue
            if seat is not None and seat.owner_session == self._session.identity.session_id:
                tenure.seen = True
            elif seat is None or not seat.free or tenure.seen:
                gone.append(tenure)
            else:  # an echo of what was before our claim, or ours is gone already
                self._doubtful.add(tenure.owned.shard)
        self._lose(gone, "its owner node is gone")

    async def settle_doubts(self) -> None:
        """Read again whether those are ours that the replica shows without an owner."""
        doubtful = set(self._doubtful)
        doubted = [t for t in map(self._tenures.get, doubtful) if t is not None and not t.seen]
        mine = await self._claims.still_mine(_versions(doubted)) if doubted else frozenset()
        self._doubtful -= doubtful
        gone = [t for t in doubted if t.owned.shard not in mine and not t.authority.over]
        self._lose(gone, "its owner node is gone")


def _versions(tenures: Collection[Tenure]) -> Versions:
    return {t.owned.shard: t.owned.version for t in tenures}


def _told(shards: Iterable[ShardId]) -> str:
    """Short enough for a log line: `0,4,5,... (85)`."""
    numbers = sorted(shards)
    shown = ",".join(map(str, numbers[:8]))
    return shown if len(numbers) <= 8 else f"{shown},... ({len(numbers)})"
