"""Members of a test's cluster: held sessions of short timeouts, on one private server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from engine.coordination.local import LocalServer
from engine.coordination.relay import Link
from engine.coordination.session import Session, SessionSettings, open_session
from engine.plugin import EngineId


@contextlib.asynccontextmanager
async def member(
    server: LocalServer, cluster: str, engine: str, *, link: Link | None = None, timeout_seconds: float = 4.0
) -> AsyncIterator[Session]:
    """A session with authority; through `link` when it is to be cut off."""
    settings = SessionSettings(
        hosts=link.hosts if link else server.hosts,
        cluster=cluster,
        timeout_seconds=timeout_seconds,
        tick_seconds=server.tick_seconds,
    )
    async with open_session(settings) as session:
        await session.ensure(session.paths.members)
        path = session.paths.member(EngineId(engine))
        await session.create(path, b"{}", ephemeral=True)
        await session.hold(path)
        yield session
