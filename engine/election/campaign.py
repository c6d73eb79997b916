"""A campaign: one engine's wish to lead one singleton, over the line at /singletons/<name>.

While the context is open the engine leads; leaving it resigns. Two leaders never overlap by
authority: the next one is first only when our node is gone, and the node goes after we have ended the
leadership (resigning), or with the session, which the authority does not outlive. Candidates queue up
in the order of their rank, and let a better one pass that has come later.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime

from engine.clock import utcnow
from engine.coordination.lines import Contender, Lines
from engine.coordination.recipes import Election, Seat, Withdrawn
from engine.coordination.session import Session, SessionEnded
from engine.coordination.tokens import token_of
from engine.election.leadership import HeldLeadership
from engine.election.standing import RANK_SECONDS, Standings, Unranked
from engine.election.terms import attended, until_wanted
from engine.errors import AuthorityLost, Unavailable
from engine.plugin import EngineId, Guard


class Campaign:
    """For one singleton in one session. `incarnation` is the number of the tree, as the database counts;
    `lines` are those below /singletons, where several campaigns share them."""

    def __init__(
        self,
        session: Session,
        name: str,
        *,
        engine: EngineId,
        incarnation: int,
        lines: Lines | None = None,
        standings: Standings | None = None,
        now: Callable[[], datetime] = utcnow,
    ) -> None:
        self.name = name
        self._session = session
        self._engine = engine
        self._incarnation = incarnation
        self._lines = lines
        self._standings = standings or Unranked()
        self._now = now

    # --- engine.coordination.recipes.Courtesy --------------------------------------------------------

    def delay_seconds(self) -> float:
        return self._standings.of(self.name).rank(self._engine) * RANK_SECONDS

    def yields_in(self, behind: Sequence[Contender]) -> float:
        standing = self._standings.of(self.name)
        if standing.down:
            raise Withdrawn(standing.down)
        return standing.yields_in(self._engine, behind)[0]

    # ------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def leading(self) -> AsyncIterator[HeldLeadership]:
        """Wait in line; lead while the body runs; resign. The body is not cancelled: watch `ended`.

        Raises `AuthorityLost` when the session is over, `Unavailable` when it is not but the election
        failed: ZooKeeper was away at the wrong moment, or somebody deleted our node in the line.
        """
        async with contextlib.AsyncExitStack() as stack:
            seat = await self._elected(stack)
            token = token_of(self._incarnation, seat.token)
            leadership = HeldLeadership(
                seat,
                name=self.name,
                token=token,
                lost=seat.lost,
                why=lambda: seat.why,
                guard=Guard(token, seat.path),
            )
            await stack.enter_async_context(
                attended(leadership, self._standings, engine=self._engine, seat=seat)
            )
            yield leadership

    async def _elected(self, stack: contextlib.AsyncExitStack) -> Seat:
        while True:
            await until_wanted(self._standings, self.name, self._session.ended)
            if self._session.ended.is_set():
                raise SessionEnded(f"no session to lead {self.name} in")
            since = self._now().isoformat(timespec="milliseconds")
            election = Election(
                self._session,
                self._session.paths.singleton(self.name),
                json.dumps({"engine": self._engine, "since": since}),
                lines=self._lines,
                courtesy=self,
            )
            unsubscribe = self._standings.subscribe(election.look)
            try:
                return await stack.enter_async_context(election.leading())
            except Withdrawn:
                continue
            except AuthorityLost as error:
                if self._session.ended.is_set():
                    raise
                raise Unavailable(f"not elected to {self.name} this time: {error}") from error
            finally:
                unsubscribe()
