"""Singletons of the scope SHARD: one run a shard, with the shard's owner.

Hangs on ownership as the fleet and the commands do: adopting a shard starts its duties, releasing ends
them before the shard is handed over. What a duty did here, its failures and whether one hangs, is
remembered when the shard comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace

from engine.coordination.session import Session
from engine.election.standing import Standings
from engine.election.terms import shard_term
from engine.errors import AuthorityLost
from engine.plugin import EngineId, Guard, ShardId
from engine.sharding.tenure import OwnedShard
from engine.singletons.duty import Duty
from engine.singletons.loading import SingletonPlugin
from engine.singletons.status import DutyState, DutyStatus


@dataclass(slots=True)
class _Served:
    """A shard that is ours, and what runs for it."""

    released: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class ShardDuties:
    """All of one engine, for the life of the process. `engine.sharding.tenure.ShardWork` within `serving`."""

    def __init__(
        self,
        plugins: Sequence[SingletonPlugin],
        *,
        engine: EngineId,
        duty_of: Callable[[SingletonPlugin], Duty],
    ) -> None:
        self._plugins = plugins
        self._engine = engine
        self._duty_of = duty_of
        self._unserved = {plugin.name: duty_of(plugin).status for plugin in plugins}
        self._duties: dict[tuple[str, ShardId], Duty] = {}
        self._served: dict[ShardId, _Served] = {}
        self._session: Session | None = None
        self._standings: Standings

    @contextlib.asynccontextmanager
    async def serving(self, session: Session, standings: Standings) -> AsyncIterator[None]:
        self._session, self._standings = session, standings
        try:
            yield
        finally:
            self._session = None
            await self._end(list(self._served))

    async def adopt(self, shards: Sequence[OwnedShard]) -> None:
        if self._session is None:
            return
        for owned in shards:
            former = self._served.get(owned.shard)
            served = self._served[owned.shard] = _Served()
            before = former.tasks if former is not None else []
            for plugin in self._plugins:
                duty = self._duties.get((plugin.name, owned.shard))
                if duty is None:
                    duty = self._duties[plugin.name, owned.shard] = self._duty_of(plugin)
                served.tasks.append(
                    self._session.background(
                        self._serve(duty, owned, served.released, after=before),
                        name=f"duty {plugin.name}#{owned.shard}",
                    )
                )

    async def release(self, shards: Sequence[OwnedShard]) -> None:
        await self._end([owned.shard for owned in shards])

    def abandon(self, shards: Sequence[OwnedShard]) -> None:
        for owned in shards:
            if (served := self._served.get(owned.shard)) is not None:
                served.released.set()  # from here on `check` refuses
                for task in served.tasks:
                    task.cancel()

    def status(self) -> list[DutyStatus]:
        """One for each singleton: on how many shards it runs here, and what went wrong last."""
        return [self._summary(plugin) for plugin in self._plugins]

    def stir(self, name: str) -> None:
        for (plugin, _), duty in self._duties.items():
            if plugin == name:
                duty.stir()

    def _summary(self, plugin: SingletonPlugin) -> DutyStatus:
        mine = [
            self._duties[plugin.name, shard].status
            for shard in self._served
            if (plugin.name, shard) in self._duties
        ]
        states = Counter(status.state for status in mine)
        if not mine:
            return replace(self._unserved[plugin.name], state=DutyState.WAITING, shards=0)
        worst = max(mine, key=lambda s: (s.failures > 0, s.failed_at.timestamp() if s.failed_at else 0.0))
        troubled = [state for state in (DutyState.STUCK, DutyState.RESTING) if states[state]]
        shown = DutyState.RUNNING if states[DutyState.RUNNING] else (troubled or [worst.state])[0]
        return replace(
            worst,
            state=shown,
            token=None,
            since=min(status.since for status in mine),
            tasks_left=sum(status.tasks_left for status in mine),
            yielding=False,
            shards=states[DutyState.RUNNING],
        )

    async def _end(self, shards: Sequence[ShardId]) -> None:
        tasks: list[asyncio.Task[None]] = []
        for shard in shards:
            if (served := self._served.pop(shard, None)) is not None:
                served.released.set()
                tasks += served.tasks
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _serve(
        self,
        duty: Duty,
        owned: OwnedShard,
        released: asyncio.Event,
        *,
        after: Sequence[asyncio.Task[None]],
    ) -> None:
        """`after`: what ran for it when it was ours before, and was abandoned, has to end first."""
        if after:
            await asyncio.wait(after)
        guard = Guard(
            owned.epoch,
            self._session.paths.shard(owned.shard) if self._session is not None else "",
            owned.version,
            place=f"#{owned.shard}",
        )
        terms = functools.partial(
            shard_term,
            duty.plugin.name,
            engine=self._engine,
            shard=owned.shard,
            authority=owned.authority,
            guard=guard,
            released=released,
            standings=self._standings,
        )
        with contextlib.suppress(AuthorityLost):
            await duty.run(terms)
