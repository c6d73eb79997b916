"""This engine's part of the shards: what the partitioner wants is claimed, what it does not is released.

One loop plans, woken by changes and deadlines, never by a clock that ticks. It looks at the members
and at /shards, asks the partitioner, and sets claims and handovers going, which run beside it
(`holdings.py`): a slow handover delays no takeover. Kept within one session; when that is over, or
somebody has overtaken this engine, `run` raises and a fresh session is needed. Called by `service.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Self

from engine.clock import boottime
from engine.coordination.membership import Membership
from engine.coordination.session import Session
from engine.errors import AuthorityLost, EngineError, Unavailable
from engine.plugin import ClusterView, EngineId, MemberView, Partitioner, PartitionState, ShardId
from engine.sharding.assignment import UNTAKEN_SECONDS
from engine.sharding.board import Board
from engine.sharding.holdings import Holdings
from engine.sharding.roster import Roster
from engine.sharding.store import EpochStore
from engine.sharding.tenure import OwnedShard, ShardWork
from engine.sharding.tree import Tree

__all__ = ["OwnedShard", "Ownership", "OwnershipSettings", "ShardWork"]

LOG = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
PAUSE_SECONDS = 0.001
BURST_SECONDS = 0.005
"""News that keep coming without a pause are heard for so long before they are acted on: long enough for
few plans, short enough that the first claims are on the wire while the last news come in."""
GATHER_SECONDS = 0.05
"""Who took a shard is read a little later, and together: when an engine dies, all the others claim at
once, and what each reads of the others' claims is taken from the time of its own."""
SECOND_LOOK_SECONDS = 0.05
"""News that ask for nothing by themselves, as others' taking of what was theirs, are planned for late:
a plan a burst, in every engine at once, would take the processor from those that have to act."""


@dataclass(slots=True, kw_only=True)
class OwnershipSettings:
    """Read at each use, since they may change meanwhile. `new_tree_seconds`: how long nobody claims in a
    new incarnation; it has to be the longest session timeout of any engine (None: this session's)."""

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
        self._settings = settings or OwnershipSettings()
        self._clock = clock
        self._shards = shards
        self._me = membership.engine
        self._board = Board(shards)
        self._roster = Roster(lambda: self._settings.join_debounce_seconds)
        quiet = self._settings.new_tree_seconds
        self._tree = Tree(
            session,
            store,
            shards=shards,
            quiet_seconds=session.identity.timeout_seconds if quiet is None else quiet,
            clock=clock,
        )
        self._holdings = Holdings(
            engine=self._me,
            session=session,
            board=self._board,
            tree=self._tree,
            store=store,
            work=work,
            handover_seconds=lambda: self._settings.handover_seconds,
            reports=self,
        )
        self._draining = False
        self._session_closes = False
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
        self._listeners: list[Callable[[], object]] = []

    @property
    def owned(self) -> Mapping[ShardId, OwnedShard]:
        """What this engine acts for at this moment."""
        return self._holdings.owned

    @property
    def incarnation(self) -> int:
        """The number of the tree that this engine works in."""
        return self._tree.incarnation.number

    def owner(self, shard: ShardId) -> EngineId | None:
        """Who owns it, as far as is known here; None while nobody does."""
        if shard in self._holdings.owned:
            return self._me
        seat = self._board.seats.get(shard)
        return seat.owner if seat is not None else None

    def subscribe(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call `callback` in the loop when shards have changed hands; returns the unsubscribe."""
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback)

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._holdings.abandon_all, "ownership was left")
            await self._store.fix_settings(
                {"shards": str(self._shards), "partitioner": self._membership.me.partitioner}
            )
            await self._tree.prepare()
            paths = self._session.paths
            self._replica = await stack.enter_async_context(
                self._session.replica(paths.shards, gather_seconds=GATHER_SECONDS)
            )
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
            self._holdings.abandon_all("ownership has ended")
            self._cancel_timers()

    async def drain(self, *, session_closes: bool = False) -> None:
        """Release everything and want nothing more; return when all is let go. Needs `run`.

        With `session_closes` the owner children are left to the end of the session, which has to
        follow at once: one transaction for all, where deleting them is one check and one delete each.
        """
        self._draining = True
        self._session_closes = session_closes
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
            if self._holdings.doubtful:
                await self._holdings.settle_doubts()
            if self._tree_changed and may_claim:
                await self._tree.meet()
                self._tree_changed = False
            may_claim = may_claim and await self._tree.settle()
        except Unavailable as error:
            self.put_off(error)
            may_claim = False
        self._cancel_timers()
        if self._draining:
            wants: frozenset[ShardId] = frozenset()
        else:
            view = self._view()
            wants = self._partitioner.wants(view)
            self._set_alarm(view, started)
        for batch in self._holdings.giving_up(wants):
            self._spawn(self._holdings.release(batch, session_closes=self._session_closes), "release")
        held, seats = self._holdings.shards, self._board.seats
        if self._partitioner.state is PartitionState.RELEASE and held <= wants:
            self._partitioner.released()
        free = [seats[s] for s in sorted(wants - held) if s in seats and seats[s].free]
        if free and may_claim:
            self._spawn(self._holdings.claim(free), "claim")
        if self._draining and not held:
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
            mine=self._holdings.shards,
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

    # --- being told ---------------------------------------------------------------------------------

    def plan_again(self, *, urgent: bool) -> None:
        """Now, or a little later together with what else has happened by then."""
        if urgent or self._draining:
            self._wake.set()
        elif self._second_look is None:
            loop = asyncio.get_running_loop()
            self._second_look = loop.call_later(SECOND_LOOK_SECONDS, self._wake.set)

    def put_off(self, error: EngineError) -> None:
        """Claim nothing for a while."""
        LOG.warning("no shard can be taken now: %s. engine=%s", error, self._me)
        self._retry_at = self._clock() + RETRY_SECONDS
        self._wake.set()

    def _shards_changed(self, changed: frozenset[str]) -> None:
        touched = self._board.read(self._replica.nodes, changed, self._clock())
        self._holdings.compare(touched)
        for listener in list(self._listeners):
            listener()
        seats = self._board.seats
        # Others that have taken what was planned for them leave nothing to be done in a hurry.
        anything_free = any(shard in seats and seats[shard].free for shard in touched)
        self.plan_again(urgent=anything_free or self._holdings.doubtful)

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
        self._holdings.abandon_all("authority is lost")
        raise AuthorityLost("authority is lost: its shards are abandoned")

    def _cancel_timers(self) -> None:
        for timer in (self._alarm, self._second_look):
            if timer is not None:
                timer.cancel()
        self._alarm = self._second_look = None

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.create_task(work, name=f"ownership-{name}")


def _foremost(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one to act on: a mistake of ours, before what is to be expected."""
    errors: list[BaseException] = []
    for error in group.exceptions:
        errors.append(_foremost(error) if isinstance(error, BaseExceptionGroup) else error)
    return min(errors, key=lambda error: isinstance(error, EngineError))
