"""Terms: a leadership with what watches over it, for as long as a context is open.

Of each scope: a leader's seat (`campaign.py`), an engine's session, an owned shard. While a term lasts,
what the operator and the other candidates want is heeded at its safe points.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator

from engine.clock import boottime
from engine.coordination.recipes import Seat
from engine.coordination.session import Session, SessionEnded
from engine.coordination.tokens import token_of
from engine.election.leadership import HeldLeadership
from engine.election.standing import Standings, Unranked
from engine.errors import AuthorityLost
from engine.plugin import Authority, EngineId, Guard, ShardId


@contextlib.asynccontextmanager
async def engine_term(
    session: Session, name: str, *, engine: EngineId, incarnation: int, standings: Standings | None = None
) -> AsyncIterator[HeldLeadership]:
    """The term of a duty that runs on each engine: it lasts as long as the session."""
    standings = standings or Unranked()
    await until_wanted(standings, name, session.ended)
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
    async with attended(leadership, standings, engine=engine):
        yield leadership


@contextlib.asynccontextmanager
async def shard_term(
    name: str,
    *,
    engine: EngineId,
    shard: ShardId,
    authority: Authority,
    guard: Guard,
    released: asyncio.Event,
    standings: Standings,
) -> AsyncIterator[HeldLeadership]:
    """The term of a duty that runs with the owner of a shard: it lasts until the shard is `released`."""
    await until_wanted(standings, name, released)
    if released.is_set():
        raise AuthorityLost(f"shard {shard} is no longer ours")
    leadership = HeldLeadership(
        authority,
        name=f"{name}#{shard}",
        token=guard.token,
        lost=released,
        why=lambda: f"shard {shard} is no longer ours",
        guard=guard,
        shard=shard,
    )
    async with attended(leadership, standings, name=name, engine=engine):
        yield leadership


@contextlib.asynccontextmanager
async def attended(
    leadership: HeldLeadership,
    standings: Standings,
    *,
    engine: EngineId,
    name: str = "",
    seat: Seat | None = None,
) -> AsyncIterator[None]:
    """Pass on to the leader what is asked of it; end the leadership with what it stands on, at the
    latest with the body. `name` is the singleton's, where the leadership's is another."""
    news = asyncio.Event()
    watch = asyncio.create_task(leadership.until_lost(), name=f"leadership {leadership.name}")
    attend = asyncio.create_task(
        _attend(leadership, standings, name or leadership.name, engine, seat, news),
        name=f"standing {leadership.name}",
    )
    with contextlib.ExitStack() as stack:
        stack.callback(standings.subscribe(news.set))
        if seat is not None:
            stack.callback(seat.subscribe(news.set))
        try:
            yield
        finally:
            watch.cancel()
            attend.cancel()
            leadership.end("it was given back")


async def _attend(
    leadership: HeldLeadership,
    standings: Standings,
    name: str,
    engine: EngineId,
    seat: Seat | None,
    news: asyncio.Event,
) -> None:
    runs = standings.of(name).runs
    while True:
        standing = standings.of(name)
        if standing.runs != runs:
            runs = standing.runs
            leadership.hurry()
        seconds, heir = standing.yields_in(engine, seat.behind()) if seat is not None else (math.inf, None)
        if standing.down:
            leadership.ask_back(standing.down)
        else:
            leadership.ask_back(f"{heir} is to lead it" if seconds <= 0 else "")
        await woken(news, boottime() + seconds if seconds > 0 else math.inf)


async def until_wanted(standings: Standings, name: str, over: asyncio.Event) -> None:
    """Return when this engine may run it, as far as the operator is concerned, or all is over."""
    if not standings.of(name).down:
        return
    news = asyncio.Event()
    ended = asyncio.create_task(over.wait(), name=f"paused {name}")
    ended.add_done_callback(lambda _: news.set())
    unsubscribe = standings.subscribe(news.set)
    try:
        while standings.of(name).down and not over.is_set():
            await news.wait()
            news.clear()
    finally:
        unsubscribe()
        ended.cancel()


async def woken(news: asyncio.Event, at: float) -> None:
    """Return when there are news, or the time has come (boottime; inf: never)."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None if math.isinf(at) else max(0.0, at - boottime())):
            await news.wait()
    news.clear()
