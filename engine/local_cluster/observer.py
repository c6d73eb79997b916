"""Watches who owns which shard, from outside: the clock by which `engine demo` judges.

A session of its own that writes nothing. Every ownership is noted with its node's ctime, which
ZooKeeper sets; every loss with the moment at which it was seen here. Both are wall-clock seconds of
one machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass

from engine.coordination.replica import Replica
from engine.coordination.session import Session, SessionSettings, open_session


@dataclass(frozen=True, slots=True)
class Taken:
    """One ownership: `at` is the owner node's ctime, `seen` when it was heard of here; Unix seconds."""

    engine: str
    at: float
    seen: float
    transaction: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A member: the process, and the session that holds its node."""

    pid: int
    session: int


class Observer:
    """The ownership history of every shard since it was entered."""

    def __init__(self, members: Replica, shards: Replica) -> None:
        self._members = members
        self._shards = shards
        self.taken: dict[int, list[Taken]] = defaultdict(list)
        self.lost: dict[int, list[float]] = defaultdict(list)
        self._changed = asyncio.Event()

    @classmethod
    @contextlib.asynccontextmanager
    async def watching(cls, settings: SessionSettings) -> AsyncIterator[Observer]:
        async with open_session(settings) as session, cls._replicas(session) as observer:
            yield observer

    @classmethod
    @contextlib.asynccontextmanager
    async def _replicas(cls, session: Session) -> AsyncIterator[Observer]:
        async with (
            session.replica(session.paths.members) as members,
            session.replica(session.paths.shards) as shards,
        ):
            observer = cls(members, shards)
            observer._note(frozenset(shards.nodes))
            stops = [shards.subscribe(observer._note), members.subscribe(lambda _: observer._changed.set())]
            try:
                yield observer
            finally:
                for stop in stops:
                    stop()

    def _note(self, changed: frozenset[str]) -> None:
        for path in changed:
            if not path.endswith("/owner"):
                continue
            shard = int(path.partition("/")[0])
            node = self._shards.nodes.get(path)
            if node is None:
                self.lost[shard].append(time.time())
            elif not self.taken[shard] or self.taken[shard][-1].transaction != node.stat.czxid:
                owner = node.json()["engine"]
                self.taken[shard].append(
                    Taken(owner, node.stat.ctime_ms / 1000, time.time(), node.stat.czxid)
                )
        self._changed.set()

    def owners(self) -> dict[int, str]:
        """Who owns what now."""
        return {
            int(path.partition("/")[0]): node.json()["engine"]
            for path, node in self._shards.nodes.items()
            if path.endswith("/owner")
        }

    def members(self) -> dict[str, Seen]:
        """The members by name; the draining are left out."""
        found = {}
        for name, node in self._members.nodes.items():
            if name:
                said = node.json()
                if said["state"] == "up":
                    found[name] = Seen(int(said["pid"]), node.stat.ephemeral_owner)
        return found

    def gaps(self, shard: int, *, since: float, dead: bool) -> list[float]:
        """For how long the shard was unowned, each time that it was taken after `since`; in seconds.

        `dead`: its owner died at `since`, whenever its node went. Else a gap begins when the owner's
        node went, as it was seen here.
        """
        found = []
        # ctime has milliseconds only: a node made in the very millisecond counts as after.
        for number, taken in enumerate(t for t in self.taken[shard] if t.at >= since - 0.001):
            if number == 0 and dead:
                begun = since
            else:
                lost = [at for at in self.lost[shard] if at <= taken.seen]
                begun = lost[-1] if lost else since
            found.append(max(0.0, taken.at - begun))
        return found

    async def replaced(self, engine: str, old: Seen, *, seconds: float) -> None:
        """Wait until the member of this name has another session. Raises TimeoutError."""
        try:
            async with asyncio.timeout(seconds):
                while self.members().get(engine, old).session == old.session:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(
                f"{engine} (pid {old.pid}) has not joined again within {seconds:.0f} s"
            ) from None

    async def settled(self, engines: set[str], shards: int, *, seconds: float) -> None:
        """Wait until just these engines are members and own all shards evenly (within one).

        Raises TimeoutError whose text says what was seen instead.
        """
        try:
            async with asyncio.timeout(seconds):
                while not self._is_settled(engines, shards):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            counts = {name: list(self.owners().values()).count(name) for name in self.members()}
            raise TimeoutError(
                f"after {seconds:.0f} s the members and their shards are {counts}, expected"
                f" {sorted(engines)} with {shards} in all"
            ) from None

    def _is_settled(self, engines: set[str], shards: int) -> bool:
        owners = self.owners()
        if set(self.members()) != engines or len(owners) != shards or set(owners.values()) - engines:
            return False
        counts = [list(owners.values()).count(name) for name in engines]
        return max(counts) - min(counts) <= 1
