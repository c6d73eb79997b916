"""This engine's shards: takes what the partitioner wants and nobody owns, lets go of what it does not.

One loop plans, woken by changes and deadlines, never by a clock that ticks; claims and handovers go
on in tasks beside it. A shard is ours once its node is (a transaction on /shards) *and* its row bears
our epoch; work starts after both and stops before the node is let go. Whoever loses the row although
the node is ours was overtaken (`Fenced`: open a fresh session), or ZooKeeper was restored to the past
(a new incarnation). Called by `service.py`; kept within one session.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

from engine.clock import boottime
from engine.coordination.membership import Membership
from engine.coordination.session import Session
from engine.errors import AuthorityLost, EngineError, Fenced, Unavailable
from engine.plugin import ClusterView, MemberView, Partitioner, PartitionState, ShardId
from engine.sharding.assignment import UNTAKEN_SECONDS
from engine.sharding.board import Board, Seat
from engine.sharding.claims import RELEASE_BATCH, Claims, Versions
from engine.sharding.roster import Roster
from engine.sharding.store import EpochStore
from engine.sharding.tenure import OwnedShard, Phase, ShardAuthority, ShardWork, Tenure
from engine.sharding.tree import Tree

__all__ = ["OwnedShard", "Ownership", "OwnershipSettings", "ShardWork"]

LOG = logging.getLogger(__name__)

DATABASE_FRESH_SECONDS = 1.0
RETRY_SECONDS = 1.0
PAUSE_SECONDS = 0.002
BURST_SECONDS = 0.01
"""News that keep coming without a pause are heard for so long before they are acted on."""
SECOND_LOOK_SECONDS = 0.05
"""News that ask for nothing by themselves, as others' taking of what was theirs, are planned for late:
a plan a burst, in every engine at once, would take the processor from those that have to act."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnershipSettings:
    """`new_tree_seconds`: how long nobody claims in a new incarnation; it has to be the longest session
    timeout of any engine (None: this session's)."""

    join_debounce_seconds: float = 1.0
    handover_seconds: float = 5.0
    untaken_seconds: float = UNTAKEN_SECONDS
    new_tree_seconds: float | None = None


class Ownership:
    """Entering it checks the cluster's settings and makes the tree; `run` then owns shards until it is
    cancelled or authority ends; leaving it abandons what `drain` has not released."""

    def __init__(
        self,
        *,
        session: Session,
        membership: Membership,
        partitioner: Partitioner,
        store: EpochStore,
        work: ShardWork,
        shards: int,
        settings: OwnershipSettings | None = None,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._session = session
        self._membership = membership
        self._partitioner = partitioner
        self._store = store
        self._work = work
        self._settings = settings or OwnershipSettings()
        self._clock = clock
        self._shards = shards
        self._me = membership.engine
        self._board = Board(shards)
        self._roster = Roster(self._settings.join_debounce_seconds)
        self._claims = Claims(session, self._me)
        quiet = self._settings.new_tree_seconds
        self._tree = Tree(
            session,
            store,
            shards=shards,
            quiet_seconds=session.identity.timeout_seconds if quiet is None else quiet,
            clock=clock,
        )
        self._tenures: dict[ShardId, Tenure] = {}
        self._owned: dict[ShardId, OwnedShard] = {}
        self._claiming: set[ShardId] = set()
        self._to_take: list[Tenure] = []
        self._taking = False
        self._doubtful: set[ShardId] = set()
        self._draining = False
        self._tree_changed = False
        self._retry_at = float("-inf")
        self._members: frozenset[MemberView] = frozenset()
        self._members_since = float("-inf")
        self._wake = asyncio.Event()
        self._emptied = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._second_look: asyncio.TimerHandle | None = None
        self._stack = contextlib.AsyncExitStack()
        self._tasks: asyncio.TaskGroup

    @property
    def owned(self) -> Mapping[ShardId, OwnedShard]:
        """What this engine acts for at this moment."""
        return MappingProxyType(self._owned)

    @property
    def incarnation(self) -> int:
        """The number of the tree that this engine works in."""
        return self._tree.incarnation.number

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._abandon_all, "ownership was left")
            await self._store.fix_settings(
                {"shards": str(self._shards), "partitioner": self._membership.me.partitioner}
            )
            await self._tree.prepare()
            paths = self._session.paths
            self._replica = await stack.enter_async_context(self._session.replica(paths.shards))
            incarnation = await stack.enter_async_context(self._session.replica(paths.incarnation))
            self._board.read(self._replica.nodes, None, self._clock())
            stack.callback(self._replica.subscribe(self._shards_changed))
            stack.callback(incarnation.subscribe(self._incarnation_changed))
            stack.callback(self._membership.subscribe(self._wake.set))
            stack.callback(self._session.on_connection_change(lambda _: self._wake.set()))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._stack.aclose()

    async def run(self) -> None:
        """Own shards. Raises `AuthorityLost`, `Fenced`, `Unavailable`: open a fresh session then."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._spawn(self._until_authority_ends(), "authority")
                self._spawn(self._heed_partitioner(), "partitioner")
                self._wake.set()
                while True:
                    await self._wake.wait()
                    await self._hear_out()
                    if self._session.connected:
                        await self._turn()
        except BaseExceptionGroup as group:
            raise _foremost(group) from group
        finally:
            self._abandon_all("ownership has ended")

    async def drain(self) -> None:
        """Release everything and want nothing more; return when all is let go. Needs `run`."""
        self._draining = True
        self._emptied.clear()
        self._wake.set()
        await self._emptied.wait()

    async def _hear_out(self) -> None:
        """News come in bursts (an engine's death is one event a shard): plan once for a burst."""
        latest = self._clock() + BURST_SECONDS
        while self._wake.is_set() and not self._draining and self._clock() < latest:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PAUSE_SECONDS):
                    await self._wake.wait()
        self._wake.clear()

    # --- planning -----------------------------------------------------------------------------------

    async def _turn(self) -> None:
        """Look at everything once, and set going what follows from it."""
        started = self._clock()
        may_claim = started >= self._retry_at
        try:
            if self._doubtful:
                await self._settle_doubts()
            if self._tree_changed and may_claim:
                await self._tree.meet()
                self._tree_changed = False
            may_claim = may_claim and await self._tree.settle()
        except Unavailable as error:
            self._put_off(error)
            may_claim = False
        self._cancel_timers()
        if self._draining:
            wants: frozenset[ShardId] = frozenset()
        else:
            view = self._view()
            wants = self._partitioner.wants(view)
            self._set_alarm(view, started)
        self._give_up([t for s, t in self._tenures.items() if s not in wants and t.phase is Phase.OWNED])
        if self._partitioner.state is PartitionState.RELEASE and self._tenures.keys() <= wants:
            self._partitioner.released()
        seats = self._board.seats
        taken = self._tenures.keys() | self._claiming
        free = [seats[s] for s in sorted(wants - taken) if s in seats and seats[s].free]
        if free and may_claim:
            self._claiming.update(seat.shard for seat in free)
            self._spawn(self._claim(free), "claim")
        if self._draining and not self._tenures and not self._claiming:
            self._emptied.set()

    def _view(self) -> ClusterView:
        now = self._clock()
        present = self._membership.members
        admitted = self._roster.admit({m.engine: m.session for m in present}, now)
        members = frozenset(
            MemberView(m.engine, m.weight, m.state == "draining", m.algorithm)
            for m in present
            if m.engine in admitted
        )
        if members != self._members:
            self._members, self._members_since = members, now
        return self._board.view(
            sorted(members, key=lambda member: member.engine),
            now=now,
            waited_from=max(self._members_since, self._tree.quiet_until),
            mine=self._tenures.keys() | self._claiming,
            me=self._me,
        )

    def _set_alarm(self, view: ClusterView, started: float) -> None:
        """Wake at the next deadline: a newcomer counts, a retry is due, an untaken shard goes on.

        What came due since the turn has `started` was not heeded in it.
        """
        now, untaken = self._clock(), self._settings.untaken_seconds
        due = [
            at
            for at in (self._roster.due, self._retry_at, self._tree.quiet_until)
            if at is not None and at > started
        ]
        if view.members:
            due += {
                now + untaken - state.free_for_seconds % untaken
                for state in view.shards
                if state.owner is None
            }
        if due:
            delay = max(0.0, min(due) - now) + 0.001  # the loop's clock may be a little behind
            self._alarm = asyncio.get_running_loop().call_later(delay, self._wake.set)

    # --- taking -------------------------------------------------------------------------------------

    async def _claim(self, seats: Sequence[Seat]) -> None:
        """The nodes' half of taking."""
        tree = self._tree.incarnation
        try:
            await self._store.require_fresh(DATABASE_FRESH_SECONDS)
            won = await self._claims.claim(seats, self._tree.version)
            self._to_take += [self._begin(shard, tree.epoch(v), v) for shard, v in won.items()]
        except Unavailable as error:
            self._put_off(error)
        finally:
            self._claiming.difference_update(seat.shard for seat in seats)
        # What became of a shard while it was being claimed was passed over then. What has not changed
        # yet will be told: no need to ask again for what was just refused.
        seats_now = self._board.seats
        refused = [seat for seat in seats if seat.shard not in self._tenures]
        if self._draining or any(seats_now.get(seat.shard) is not seat for seat in refused):
            self._wake.set()
        if not self._taking:
            await self._take_all()

    async def _take_all(self) -> None:
        """The rows' half, for all claims that have come back meanwhile in one transaction."""
        self._taking = True
        try:
            while self._to_take:
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
            kept = await self._store.take(epochs, self._me)
            await self._adopt([t for t in tenures if t.owned.shard in kept and not t.authority.over])
        except (Unavailable, AuthorityLost) as error:  # no authority while the connection is broken
            self._put_off(error)
            self._work.abandon([t.owned for t in tenures if t.phase is Phase.ADOPTING])
            await self._leave(tenures, "it could not be taken")
            return
        if lost := [t for t in tenures if t.owned.shard not in kept]:
            await self._overtaken(lost)

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
        self._look_again_soon()

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
        await self._tree.replace(self._tree.version)
        self._tree_changed = True
        self._wake.set()

    # --- letting go ---------------------------------------------------------------------------------

    def _give_up(self, tenures: Sequence[Tenure]) -> None:
        for start in range(0, len(tenures), RELEASE_BATCH):
            batch = tenures[start : start + RELEASE_BATCH]
            for tenure in batch:
                tenure.phase = Phase.RELEASING
            self._spawn(self._release(batch), "release")

    async def _release(self, tenures: Sequence[Tenure]) -> None:
        """Hand over: the work stops first, the owner children go last."""
        try:
            async with asyncio.timeout(self._settings.handover_seconds):
                await self._work.release([t.owned for t in tenures])
        except (TimeoutError, AuthorityLost):
            LOG.warning(
                "work did not end in order for a handover and is cut off. engine=%s shards=%s",
                self._me,
                _told(t.owned.shard for t in tenures),
            )
            self._work.abandon([t.owned for t in tenures])
        await self._leave(tenures, "it was handed over")
        LOG.info("released engine=%s shards=%s", self._me, _told(t.owned.shard for t in tenures))

    async def _leave(self, tenures: Sequence[Tenure], why: str) -> None:
        ours = [t for t in tenures if not t.authority.over]
        for tenure in ours:
            tenure.phase = Phase.LEAVING
            tenure.authority.end(why)
            self._owned.pop(tenure.owned.shard, None)
        await self._claims.let_go(_versions(ours))
        for tenure in ours:
            self._tenures.pop(tenure.owned.shard, None)
        if self._draining:
            self._wake.set()
        self._look_again_soon()

    def _lose(self, tenures: Sequence[Tenure], why: str) -> None:
        """The owner children are gone without our doing: stop at once."""
        for tenure in tenures:
            tenure.authority.end(why)
            self._owned.pop(tenure.owned.shard, None)
            self._tenures.pop(tenure.owned.shard, None)
        if tenures:
            LOG.warning("lost engine=%s shards=%s: %s", self._me, _told(t.owned.shard for t in tenures), why)
            self._work.abandon([t.owned for t in tenures if t.phase is not Phase.TAKING])

    def _abandon_all(self, why: str) -> None:
        """Synchronously, with no I/O. What is being let go has stopped already."""
        self._lose([t for t in self._tenures.values() if t.phase is not Phase.LEAVING], why)
        self._cancel_timers()

    # --- being told ---------------------------------------------------------------------------------

    def _shards_changed(self, changed: frozenset[str]) -> None:
        touched = self._board.read(self._replica.nodes, changed, self._clock())
        seats, gone = self._board.seats, []
        for tenure in (self._tenures[shard] for shard in touched if shard in self._tenures):
            seat = seats.get(tenure.owned.shard)
            if tenure.phase is Phase.LEAVING:
                continue
            if seat is not None and seat.owner_session == self._session.identity.session_id:
                tenure.seen = True
            elif seat is None or not seat.free or tenure.seen:
                gone.append(tenure)
            else:  # an echo of what was before our claim, or ours is gone already
                self._doubtful.add(tenure.owned.shard)
        self._lose(gone, "its owner node is gone")
        if gone or self._doubtful or any(shard in seats and seats[shard].free for shard in touched):
            self._wake.set()
        else:  # others have taken what was planned for them: nothing to be done in a hurry
            self._look_again_soon()

    async def _settle_doubts(self) -> None:
        doubted = [t for t in map(self._tenures.get, self._doubtful) if t is not None and not t.seen]
        mine = await self._claims.still_mine(_versions(doubted)) if doubted else frozenset()
        self._doubtful -= _versions(doubted).keys()
        gone = [t for t in doubted if t.owned.shard not in mine and not t.authority.over]
        self._lose(gone, "its owner node is gone")

    def _incarnation_changed(self, _changed: frozenset[str]) -> None:
        self._tree_changed = True
        self._wake.set()

    async def _heed_partitioner(self) -> None:
        while True:
            await self._partitioner.changed.wait()
            self._partitioner.changed.clear()
            self._wake.set()

    async def _until_authority_ends(self) -> None:
        await self._session.authority.lost.wait()
        self._abandon_all("authority is lost")
        raise AuthorityLost("authority is lost: its shards are abandoned")

    def _cancel_timers(self) -> None:
        for timer in (self._alarm, self._second_look):
            if timer is not None:
                timer.cancel()
        self._alarm = self._second_look = None

    def _look_again_soon(self) -> None:
        if self._second_look is None:
            loop = asyncio.get_running_loop()
            self._second_look = loop.call_later(SECOND_LOOK_SECONDS, self._wake.set)

    def _put_off(self, error: EngineError) -> None:
        LOG.warning("no shard can be taken now: %s. engine=%s", error, self._me)
        self._retry_at = self._clock() + RETRY_SECONDS
        self._wake.set()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.create_task(work, name=f"ownership-{name}")


def _versions(tenures: Collection[Tenure]) -> Versions:
    return {t.owned.shard: t.owned.version for t in tenures}


def _told(shards: Iterable[ShardId]) -> str:
    """Short enough for a log line: `0,4,5,... (85)`."""
    numbers = sorted(shards)
    shown = ",".join(map(str, numbers[:8]))
    return shown if len(numbers) <= 8 else f"{shown},... ({len(numbers)})"


def _foremost(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one to act on: a mistake of ours, before what is to be expected."""
    errors: list[BaseException] = []
    for error in group.exceptions:
        errors.append(_foremost(error) if isinstance(error, BaseExceptionGroup) else error)
    return min(errors, key=lambda error: isinstance(error, EngineError))
