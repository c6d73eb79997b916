"""What an engine knows of all duties in the cluster while it has a session, and what it tells of its own.

Two trees are watched: the lines below /singletons, with the operators' orders, and /duties, where each
engine says what it is ready to lead. From them follows, alike in every engine, who should lead what.
Implements `engine.election.standing.Standings`; called by `runner.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace

from engine.coordination.lines import Lines
from engine.coordination.membership import Members
from engine.coordination.operations import Create, Delete, MalformedNode, Node, Reason, Rejected
from engine.coordination.replica import Replica
from engine.coordination.session import MAX_OPERATIONS, Session
from engine.election.spread import Offer, Ranking, rankings
from engine.election.standing import Standing
from engine.errors import AuthorityLost, Unavailable
from engine.plugin import EngineId
from engine.singletons.orders import Orders
from engine.singletons.status import DutyStatus, EngineDuties

LOG = logging.getLogger(__name__)

GATHER_SECONDS = 0.1
"""What changes within so long is told with one write."""
RETRY_SECONDS = 0.5
DRAIN_TELL_SECONDS = 1.0


class DutyBoard:
    """For one engine in one session. `status` gives what its duties are doing."""

    def __init__(
        self,
        session: Session,
        engine: EngineId,
        *,
        lines: Lines,
        duties: Replica,
        members: Members,
        status: Callable[[], tuple[DutyStatus, ...]],
    ) -> None:
        self.lines = lines
        self._session = session
        self._engine = engine
        self._duties = duties
        self._members = members
        self._status = status
        self._draining = False
        self._subscribers: list[Callable[[], None]] = []
        self._offers: dict[EngineId, Offer] = {}
        self._orders: dict[str, Orders] = {}
        self._ranked: Mapping[str, Ranking] = {}
        self._parsed: dict[str, tuple[int, Offer | None]] = {}
        self._look_due: asyncio.TimerHandle | None = None
        self._dirty = asyncio.Event()
        self._turn = asyncio.Lock()
        self._told = b""
        self._look()

    @classmethod
    @contextlib.asynccontextmanager
    async def watching(
        cls, session: Session, engine: EngineId, *, status: Callable[[], tuple[DutyStatus, ...]]
    ) -> AsyncIterator[DutyBoard]:
        """Tells what this engine offers before the context is entered, and goes on telling in it."""
        await session.ensure(session.paths.singletons)
        await session.ensure(session.paths.duties)
        await session.ensure(session.paths.members)
        async with (
            Lines.watching(session, session.paths.singletons) as lines,
            session.replica(session.paths.duties) as duties,
            session.replica(session.paths.members) as replica,
        ):
            members = Members(replica)
            board = cls(session, engine, lines=lines, duties=duties, members=members, status=status)
            with contextlib.ExitStack() as stack:
                stack.callback(lines.subscribe_heads(board._look))
                stack.callback(duties.subscribe(lambda _: board._look()))
                stack.callback(replica.subscribe(members.changed))
                stack.callback(members.subscribe(board._look))
                await board._tell()
                await board._make_lines()
                telling = session.background(board._keep_telling(), name="duties")
                try:
                    yield board
                finally:
                    telling.cancel()
                    if board._look_due is not None:
                        board._look_due.cancel()

    async def _make_lines(self) -> None:
        """The nodes of all that we are ready to lead, with one write."""
        known = set(self.lines.names())
        missing = sorted(self._mine().offer().names - known)
        paths = self._session.paths
        with contextlib.suppress(Rejected):  # another engine makes them too: each candidate looks again
            for start in range(0, len(missing), MAX_OPERATIONS):
                await self._session.commit(
                    *(Create(paths.singleton(name)) for name in missing[start : start + MAX_OPERATIONS])
                )

    # --- what is wanted of this engine ---------------------------------------------------------------

    def of(self, name: str) -> Standing:
        orders = self._orders.get(name, Orders())
        down = "this engine is draining" if self._draining else "it is paused" if orders.paused else ""
        return Standing(
            order=self._ranked.get(name, ()), preferred=orders.preferred, down=down, runs=orders.runs
        )

    def paused(self, name: str) -> bool:
        return self._orders.get(name, Orders()).paused

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    async def drain(self) -> None:
        """Tell everybody that this engine leads nothing any more, then want nothing."""
        self._draining = True
        try:
            async with asyncio.timeout(DRAIN_TELL_SECONDS):
                await self._tell()
        except (TimeoutError, Unavailable, AuthorityLost) as error:
            LOG.info("the others were not told that this engine drains: %s", error)
        self._look()
        self._notify()

    def undrain(self) -> None:
        """Be a candidate again for all that this engine can lead."""
        if self._draining:
            self._draining = False
            self._dirty.set()
            self._look()
            self._notify()

    def _look(self) -> None:
        """Read the trees again; tell our own duties if anything is otherwise than before."""
        if self._look_due is not None:
            self._look_due.cancel()
            self._look_due = None
        offers = self._read_offers()
        orders = {name: self._read_orders(name) for name in self.lines.names()}
        if offers == self._offers and orders == self._orders:
            return
        self._offers, self._orders = offers, orders
        preferred = {name: told.preferred for name, told in orders.items() if told.preferred is not None}
        self._ranked = rankings(list(offers.values()), preferred)
        self._dirty.set()
        self._notify()

    def _notify(self) -> None:
        for subscriber in list(self._subscribers):
            subscriber()

    def _read_offers(self) -> dict[EngineId, Offer]:
        """Our own as it is, whatever has been told so far; of whoever is no member yet, the usual weight."""
        found = {self._engine: self._mine().offer()}
        for name, node in self._duties.nodes.items():
            if not name or name == self._engine:
                continue
            known = self._parsed.get(name)
            if known is None or known[0] != node.stat.mzxid:
                known = self._parsed[name] = (node.stat.mzxid, _offer_of(name, node))
            if known[1] is not None:
                found[EngineId(name)] = known[1]
        weights = {member.engine: member.weight for member in self._members.members}
        return {name: replace(offer, weight=weights.get(name, 1)) for name, offer in found.items()}

    def _read_orders(self, name: str) -> Orders:
        node = self.lines.head(name)
        try:
            return Orders.from_node(node)
        except MalformedNode as error:
            LOG.warning("the orders for singleton %s are ignored: %s", name, error)
            return Orders()

    # --- what this engine tells ----------------------------------------------------------------------

    def changed(self) -> None:
        """A duty of ours has changed its status. Many do at once, when shards come."""
        self._dirty.set()
        if self._look_due is None:
            self._look_due = asyncio.get_running_loop().call_later(GATHER_SECONDS / 2, self._look)

    def _mine(self) -> EngineDuties:
        return EngineDuties(engine=self._engine, duties=self._status(), draining=self._draining)

    async def _keep_telling(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self._tell()
            except AuthorityLost:
                return
            except Unavailable:
                self._dirty.set()
                await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(GATHER_SECONDS)

    async def _tell(self) -> None:
        """Write our node. It is this session's own, so nobody else's write is overwritten."""
        path = self._session.paths.duties_of(self._engine)
        async with self._turn:
            data = self._mine().to_json()
            if data == self._told:
                return
            try:
                if not self._told:
                    await self._replace(path, data)
                else:
                    await self._session.set(path, data)
            except Rejected as refused:
                if refused.reason is not Reason.ABSENT:
                    raise
                await self._replace(path, data)  # somebody deleted it by hand
            self._told = data

    async def _replace(self, path: str, data: bytes) -> None:
        """Make the node ours; one that is there is a former session's of this engine."""
        try:
            await self._session.create_mine(path, data)
        except Rejected as refused:
            if refused.reason is not Reason.EXISTS:
                raise
            with contextlib.suppress(Rejected):
                await self._session.commit(Delete(path))
            await self._session.commit(Create(path, data, ephemeral=True))


def _offer_of(name: str, node: Node) -> Offer | None:
    try:
        return EngineDuties.from_node(name, node).offer()
    except MalformedNode as error:
        LOG.warning("ignored: %s", error)
        return None
