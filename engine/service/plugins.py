"""What singletons are built with: the doors of their contexts, opened anew with each session.

A plugin is built once a term and a `Doors` lives as long as the process, so what belongs to a session
(who is a member, where commands are submitted) is looked up when it is asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from engine.clock import utcnow
from engine.commands.desk import Desk
from engine.commands.submission import Submission
from engine.coordination.bumps import bump_inbox
from engine.coordination.membership import Membership
from engine.coordination.session import Session
from engine.db.database import Database
from engine.db.events import EventStore
from engine.db.ledger import LeaderLedger
from engine.plugin import Calls, ClusteredMaps, EngineId, EntityReader, PluginContext, ShardId
from engine.sharding.hashing import shard_of
from engine.singletons.loading import SingletonPlugin


class Doors:
    """Of one engine. `open` is called once a session."""

    def __init__(
        self,
        database: Database,
        calls: Calls,
        maps: ClusteredMaps,
        *,
        engine: EngineId,
        shards: int,
        overrides: Callable[[str], Mapping[str, Mapping[str, Any]]],
    ) -> None:
        """`overrides`: of a group of options, what is set for the hosts of one host cluster."""
        self._overrides = overrides
        self._database = database
        self._calls = calls
        self._maps = maps
        self._engine = engine
        self._shards = shards
        self._desk = Desk()
        self._session: Session | None = None
        self._membership: Membership | None = None

    def open(self, session: Session, membership: Membership, submission: Submission) -> None:
        self._session, self._membership, self._desk.submission = session, membership, submission

    @property
    def reader(self) -> EntityReader:
        """Entities, for tasks."""
        return self._ledger("tasks").reader

    def context(self, plugin: SingletonPlugin) -> PluginContext:
        return PluginContext(
            engine=self._engine,
            options=plugin.values,
            events=EventStore(self._database, name=plugin.name, engine=self._engine),
            ledger=self._ledger(plugin.name),
            commands=self._desk.of(f"singleton:{plugin.name}"),
            calls=self._calls,
            maps=self._maps,
            now=utcnow,
            members=self._members,
            overrides=functools.partial(self._overrides, f"singleton_{plugin.name}"),
        )

    def _ledger(self, name: str) -> LeaderLedger:
        return LeaderLedger(
            self._database,
            name=name,
            engine=self._engine,
            shard_of=lambda id: shard_of(id, self._shards),
            bump=self._bump,
        )

    async def _bump(self, shard: ShardId) -> None:
        if self._session is not None:
            await bump_inbox(self._session, shard, by=self._engine)

    def _members(self) -> Mapping[EngineId, datetime]:
        here = self._membership.members if self._membership is not None else ()
        return {member.engine: member.started for member in here}
