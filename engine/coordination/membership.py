"""Who is in the cluster: one ephemeral node a member, watched by all.

A member's node is the ground on which its authority stands: joining creates it and begins the
authority, and when it vanishes or turns out to be another session's the session is over. Whoever
only looks (the API) observes without joining. A node that holds no member is left out and logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

import orjson

from engine.coordination.operations import MalformedNode, Node, Reason, Rejected
from engine.coordination.replica import Replica
from engine.coordination.session import Session
from engine.errors import Conflict
from engine.plugin import EngineId

LOG = logging.getLogger(__name__)

State = Literal["up", "draining"]
DbState = Literal["ok", "down"]

_TYPES: dict[str, type] = {
    "address": str,
    "pid": int,
    "version": str,
    "started": str,
    "state": str,
    "weight": int,
    "algorithm": int,
    "db": str,
    "shards": int,
    "partitioner": str,
    "database": str,
    "calls": str,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One engine as everybody sees it. `session` is the one that holds its node; 0 before it joins."""

    engine: EngineId
    address: str
    pid: int
    version: str
    started: datetime
    state: State = "up"
    weight: int = 1
    algorithm: int
    db: DbState = "ok"
    shards: int
    partitioner: str
    database: str = ""
    """Which one it works on; "" where it does not say."""
    calls: str = ""
    """The URL at which it takes calls from other engines; "" where it takes none."""
    session: int = 0

    @classmethod
    def from_node(cls, engine: str, node: Node) -> Member:
        """Raises `MalformedNode` where a field is missing or of another type."""
        raw = node.json()
        if not isinstance(raw, dict):
            raise MalformedNode(f"the node of member {engine} holds no object")
        raw.setdefault("database", "")
        raw.setdefault("calls", "")
        for name, kind in _TYPES.items():
            if not isinstance(raw.get(name), kind) or isinstance(raw.get(name), bool):
                raise MalformedNode(f"the node of member {engine}: {name} should be {kind.__name__}")
        if raw["state"] not in ("up", "draining") or raw["db"] not in ("ok", "down"):
            raise MalformedNode(f"the node of member {engine}: unknown state or db")
        try:
            started = datetime.fromisoformat(raw["started"])
        except ValueError as error:
            raise MalformedNode(f"the node of member {engine}: {error}") from error
        known: dict[str, Any] = {name: raw[name] for name in _TYPES}
        return cls(engine=EngineId(engine), session=node.stat.ephemeral_owner, **known | {"started": started})

    def to_json(self) -> bytes:
        fields = {name: getattr(self, name) for name in _TYPES}
        return orjson.dumps(fields | {"started": self.started.isoformat()})


class Members:
    """The members as of the last event, in order of their names."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._subscribers: list[Callable[[], object]] = []
        self.members: tuple[Member, ...] = ()
        self._malformed: dict[str, int] = {}
        self._read()

    def subscribe(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call `callback` in the loop after each change; returns the unsubscribe."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    async def fresh(self) -> None:
        """Return when all that was written before this call is visible."""
        await self._replica.fresh()

    def changed(self, names: frozenset[str]) -> None:
        """The replica's callback."""
        before = self.members
        self._read()
        if self.members != before:
            for subscriber in list(self._subscribers):
                subscriber()

    def _read(self) -> None:
        found: list[Member] = []
        for name, node in self._replica.nodes.items():
            if not name or "/" in name:
                continue
            try:
                found.append(Member.from_node(name, node))
            except MalformedNode as error:
                if self._malformed.get(name) != node.stat.mzxid:
                    self._malformed[name] = node.stat.mzxid
                    LOG.warning("ignored: %s", error)
        self.members = tuple(sorted(found, key=lambda member: member.engine))


class Membership(Members):
    """This engine's own membership."""

    def __init__(self, session: Session, replica: Replica, member: Member) -> None:
        super().__init__(replica)
        self._session = session
        self._path = session.paths.member(member.engine)
        self._version = 0
        self._turn = asyncio.Lock()
        self.me = member

    @property
    def engine(self) -> EngineId:
        return self.me.engine

    async def drain(self) -> None:
        """Tell everybody that this engine is leaving: it is assigned nothing any more."""
        await self.update(state="draining")

    async def update(
        self,
        *,
        db: DbState | None = None,
        state: State | None = None,
        address: str | None = None,
        weight: int | None = None,
    ) -> None:
        """Change what this member says of itself. What is left out stays."""
        asked = {"db": db, "state": state, "address": address, "weight": weight}
        changes = {name: value for name, value in asked.items() if value is not None}
        async with self._turn:
            wanted = dataclasses.replace(self.me, **cast(dict[str, Any], changes))
            if wanted != self.me:
                await self._write(wanted)
                self.me = wanted

    async def _write(self, wanted: Member) -> None:
        try:
            stat = await self._session.set(self._path, wanted.to_json(), self._version)
        except Rejected as refused:
            node = await self._session.get(self._path)
            if refused.reason is not Reason.VERSION or not self._is_mine(node):
                self._session.end("the member node is not ours any more")
                raise
            assert node is not None
            # Somebody edited it by hand, or the reply of our own last write was lost.
            stat = await self._session.set(self._path, wanted.to_json(), node.stat.version)
        self._version = stat.version

    def changed(self, names: frozenset[str]) -> None:
        if self.engine in names and not self._is_mine(self._replica.nodes.get(self.engine)):
            self._session.end("the member node is gone or another session's")
        super().changed(names)

    def _is_mine(self, node: Node | None) -> bool:
        return node is not None and node.stat.ephemeral_owner == self._session.identity.session_id


@contextlib.asynccontextmanager
async def observe_members(session: Session) -> AsyncIterator[Members]:
    """The members, without being one."""
    async with session.replica(session.paths.members) as replica:
        members = Members(replica)
        unsubscribe = replica.subscribe(members.changed)
        try:
            yield members
        finally:
            unsubscribe()


@contextlib.asynccontextmanager
async def join(session: Session, member: Member) -> AsyncIterator[Membership]:
    """Become a member, and begin the session's authority.

    The node stays when the context is left and goes with the session, which is closed last. A node
    left by this engine's previous session is waited for until that session has expired.
    Raises `Conflict` when the name is another living engine's.
    """
    path = session.paths.member(member.engine)
    member = dataclasses.replace(member, session=session.identity.session_id)
    await session.ensure(session.paths.members)
    async with session.replica(session.paths.members) as replica:
        await _create(session, replica, path, member)
        await session.hold(path)
        await replica.fresh()
        membership = Membership(session, replica, member)
        unsubscribe = replica.subscribe(membership.changed)
        try:
            yield membership
        finally:
            unsubscribe()


async def _create(session: Session, replica: Replica, path: str, member: Member) -> None:
    changed = asyncio.Event()
    unsubscribe = replica.subscribe(lambda names: changed.set())
    try:
        async with asyncio.timeout(session.identity.timeout_seconds + 1.0):
            while True:
                changed.clear()
                try:
                    await session.create_mine(path, member.to_json())
                    return
                except Rejected as refused:
                    if refused.reason is not Reason.EXISTS:
                        raise
                await replica.fresh()
                if member.engine in replica.nodes:
                    await changed.wait()
    except TimeoutError:
        raise Conflict(_who_is_it(replica, member.engine)) from None
    finally:
        unsubscribe()


def _who_is_it(replica: Replica, engine: EngineId) -> str:
    node = replica.nodes.get(engine)
    try:
        other = Member.from_node(engine, node) if node is not None else None
    except MalformedNode:
        other = None
    where = f" (pid {other.pid} at {other.address})" if other is not None else ""
    return f"another engine is a member by the name {engine}{where}; stop it, or give this one another name"
