"""A campaign: one engine's wish to lead one singleton, over the line at /singletons/<name>.

While the context is open the engine leads; leaving it resigns. Two leaders never overlap by
authority: the next one is first only when our node is gone, and the node goes after we have ended the
leadership (resigning), or with the session, which the authority does not outlive.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import datetime

from engine.clock import utcnow
from engine.coordination.recipes import Election, Seat
from engine.coordination.session import Session, SessionEnded
from engine.coordination.tokens import token_of
from engine.election.leadership import HeldLeadership
from engine.errors import AuthorityLost, Unavailable
from engine.plugin import EngineId, Guard


class Campaign:
    """For one singleton in one session. `incarnation` is the number of the tree, as the database counts."""

    def __init__(
        self,
        session: Session,
        name: str,
        *,
        engine: EngineId,
        incarnation: int,
        now: Callable[[], datetime] = utcnow,
    ) -> None:
        self.name = name
        self._session = session
        self._engine = engine
        self._incarnation = incarnation
        self._now = now

    @contextlib.asynccontextmanager
    async def leading(self) -> AsyncIterator[HeldLeadership]:
        """Wait in line; lead while the body runs; resign. The body is not cancelled: watch `ended`.

        Raises `AuthorityLost` when the session is over, `Unavailable` when it is not but the election
        failed: ZooKeeper was away at the wrong moment, or somebody deleted our node in the line.
        """
        if self._session.ended.is_set():
            raise SessionEnded(f"no session to lead {self.name} in")
        since = self._now().isoformat(timespec="milliseconds")
        identifier = json.dumps({"engine": self._engine, "since": since})
        election = Election(self._session, self._session.paths.singleton(self.name), identifier)
        async with contextlib.AsyncExitStack() as stack:
            seat = await self._elected(stack, election)
            token = token_of(self._incarnation, seat.token)
            leadership = HeldLeadership(
                seat,
                name=self.name,
                token=token,
                lost=seat.lost,
                why=lambda: seat.why,
                guard=Guard(token, seat.path),
            )
            await stack.enter_async_context(_ending(leadership))
            yield leadership

    async def _elected(self, stack: contextlib.AsyncExitStack, election: Election) -> Seat:
        try:
            return await stack.enter_async_context(election.leading())
        except AuthorityLost as error:
            if self._session.ended.is_set():
                raise
            raise Unavailable(f"not elected to {self.name} this time: {error}") from error


@contextlib.asynccontextmanager
async def engine_term(
    session: Session, name: str, *, engine: EngineId, incarnation: int
) -> AsyncIterator[HeldLeadership]:
    """The term of a duty that runs on each engine: it lasts as long as the session."""
    path = session.paths.member(engine)
    member = await session.get(path)
    if session.ended.is_set() or member is None:
        raise SessionEnded(f"{engine} is no member in this session")
    token = token_of(incarnation, member.stat.czxid)
    leadership = HeldLeadership(
        session.authority,
        name=name,
        token=token,
        lost=session.ended,
        why=lambda: "the session is over",
        guard=Guard(token, path, place=f"@{engine}"),
    )
    async with _ending(leadership):
        yield leadership


@contextlib.asynccontextmanager
async def _ending(leadership: HeldLeadership) -> AsyncIterator[None]:
    """End the leadership with what it stands on, at the latest with the body."""
    watch = asyncio.create_task(leadership.until_lost(), name=f"leadership {leadership.name}")
    try:
        yield
    finally:
        watch.cancel()
        leadership.end("it was given back")
