"""The API's one connection to ZooKeeper: a watched snapshot of the cluster, and the inbox bump.

Opened in the worker's lifespan, after the fork. When the session ends a new one is opened with
back-off, as often as it takes; requests are meanwhile answered from the last snapshot, which says
that it is stale. Requests never read ZooKeeper.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Self

from engine.api.snapshot import ClusterSnapshot
from engine.clock import utcnow
from engine.coordination.bumps import bump_inbox
from engine.coordination.membership import observe_members
from engine.coordination.paths import Paths
from engine.coordination.reopening import Reopening
from engine.coordination.session import Session, SessionSettings, open_session
from engine.errors import EngineError, Unavailable
from engine.plugin import ShardId
from engine.singletons.orders import Orders, order

LOG = logging.getLogger(__name__)

FIRST_SNAPSHOT_SECONDS = 1.0
"""How long a worker that starts waits for its first snapshot; it serves without one after that."""
BUMP_SECONDS = 1.0
"""A bump that is not through by then is given up: owners look by themselves too."""


class ClusterWatch:
    """An async context manager; `snapshot` and the like are read without I/O in between."""

    def __init__(
        self,
        settings: SessionSettings,
        *,
        follow: Callable[[Session], AbstractAsyncContextManager[None]] | None = None,
        now: Callable[[], datetime] = utcnow,
    ) -> None:
        """`follow` is entered in each session, and left at its end."""
        self.paths = Paths(settings.cluster)
        self._follow = follow
        self._settings = settings
        self._now = now
        self._session: Session | None = None
        self._snapshot: ClusterSnapshot | None = None
        self._first = asyncio.Event()
        self._trouble = "ZooKeeper has not answered yet"
        self._stale_since: datetime | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch(), name="cluster-watch")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SNAPSHOT_SECONDS):
                await self._first.wait()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def snapshot(self) -> ClusterSnapshot:
        """The latest snapshot. Raises `Unavailable` while there has never been one."""
        if self._snapshot is None:
            raise Unavailable(f"the cluster is not known yet: {self._trouble}")
        return self._snapshot

    @property
    def trouble(self) -> str:
        """Why the snapshot is not current; empty when it is."""
        return self._trouble

    @property
    def stale_since(self) -> datetime | None:
        """Since when the snapshot may be out of date; None when it is current."""
        return self._stale_since

    @property
    def session(self) -> Session:
        """The session of this moment. Raises `Unavailable` while there is none."""
        if self._session is None or not self._session.connected:
            raise Unavailable(self._trouble or "ZooKeeper is not connected")
        return self._session

    async def bump(self, shard: ShardId) -> None:
        """Tell the owner of `shard` that something waits for it. Raises `Unavailable`."""
        session = self.session
        try:
            async with asyncio.timeout(BUMP_SECONDS):
                await bump_inbox(session, shard, by="api")
        except TimeoutError:
            raise Unavailable(f"ZooKeeper did not answer within {BUMP_SECONDS:g} s") from None

    async def order(self, singleton: str, change: Callable[[Orders], Orders]) -> Orders:
        """Change what is wanted of a singleton; every engine acts on it at once. Raises `Unavailable`."""
        return await order(self.session, singleton, change)

    async def _watch(self) -> None:
        reopening = Reopening()
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await self._watch_one_session()
                self._not_current("the ZooKeeper session ended")
            except EngineError as error:
                self._not_current(str(error))
                LOG.warning("no ZooKeeper: %s", error)
            except Exception:  # the top of this scope: the API goes on from its last snapshot
                self._not_current("the ZooKeeper session failed; the API's log tells more")
                LOG.exception("the ZooKeeper session failed")
            lasted = asyncio.get_running_loop().time() - began
            await asyncio.sleep(reopening.pause_seconds(lasted))

    async def _watch_one_session(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            session = await stack.enter_async_context(open_session(self._settings))
            paths = self.paths
            for path in (paths.members, paths.shards, paths.singletons, paths.duties, paths.config):
                await session.ensure(path)
            await session.ensure(paths.inbox)
            await self._replicate(session, stack)
            if self._follow is not None:
                await stack.enter_async_context(self._follow(session))
            stack.enter_context(self._current(session))
            session.on_connection_change(self._on_connection)
            self._on_connection(session.connected)
            await session.ended.wait()

    async def _replicate(self, session: Session, stack: contextlib.AsyncExitStack) -> None:
        members = await stack.enter_async_context(observe_members(session))
        shards = await stack.enter_async_context(session.replica(self.paths.shards))
        singletons = await stack.enter_async_context(session.replica(self.paths.singletons))
        duties = await stack.enter_async_context(session.replica(self.paths.duties))
        config = await stack.enter_async_context(session.replica(self.paths.config))
        self._snapshot = ClusterSnapshot.of(
            members.members, shards.nodes, singletons.nodes, config.nodes, duties.nodes
        )

        def on_members(*_changed: object) -> None:
            self._snapshot = self.snapshot.with_members(members.members)

        def on_shards(changed: frozenset[str]) -> None:
            self._snapshot = self.snapshot.with_shards(changed, shards.nodes)

        def on_singletons(_changed: frozenset[str]) -> None:
            self._snapshot = self.snapshot.with_singletons(singletons.nodes)

        def on_duties(_changed: frozenset[str]) -> None:
            self._snapshot = self.snapshot.with_duties(duties.nodes)

        def on_config(_changed: frozenset[str]) -> None:
            self._snapshot = self.snapshot.with_config(config.nodes)

        stack.callback(members.subscribe(on_members))
        stack.callback(shards.subscribe(on_shards))
        stack.callback(singletons.subscribe(on_singletons))
        stack.callback(duties.subscribe(on_duties))
        stack.callback(config.subscribe(on_config))
        self._first.set()

    @contextlib.contextmanager
    def _current(self, session: Session) -> Iterator[None]:
        self._session = session
        try:
            yield
        finally:
            self._session = None

    def _on_connection(self, connected: bool) -> None:
        if connected:
            self._trouble, self._stale_since = "", None
        else:
            self._not_current("the connection to ZooKeeper is lost")

    def _not_current(self, why: str) -> None:
        self._trouble = why
        self._stale_since = self._stale_since or self._now()
