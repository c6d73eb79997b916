"""The cluster as one immutable snapshot: what ZooKeeper says, parsed once when it changes.

Pure: from nodes by relative path, as a replica has them, to records. A node that does not hold what
it should is left out and logged by the caller's replica; one bad node hides nothing but itself.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Self

from engine.coordination.membership import Member
from engine.coordination.operations import MalformedNode, Node
from engine.plugin import EngineId, ShardId
from engine.singletons.orders import Orders
from engine.singletons.status import DutyStatus, EngineDuties

LOG = logging.getLogger(__name__)

_CANDIDATE = re.compile(r"(?P<singleton>[^/]+)/[^/]*?(?P<place>\d{10})")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardState:
    """A shard's node. `last_owner` took it last; `owner` is None while nobody owns it."""

    shard: ShardId
    owner: EngineId | None
    last_owner: EngineId | None
    since: datetime | None
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An engine in the line for a singleton; the first one leads."""

    engine: EngineId
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSnapshot:
    """Members, shards, singletons (candidates in line) and shared configuration at one moment.

    `orders` is what operators want of singletons, `duties` what each engine says of its own.
    """

    members: tuple[Member, ...]
    shards: Mapping[ShardId, ShardState]
    singletons: Mapping[str, tuple[Candidate, ...]]
    config: Mapping[str, Node]
    orders: Mapping[str, Orders] = field(default_factory=dict)
    duties: Mapping[EngineId, Mapping[str, DutyStatus]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        members: Iterable[Member],
        shards: Mapping[str, Node],
        singletons: Mapping[str, Node],
        config: Mapping[str, Node],
        duties: Mapping[str, Node] = MappingProxyType({}),
    ) -> Self:
        found = (_shard(name, shards) for name in shards if name and "/" not in name)
        return cls(
            members=_in_order(members),
            shards=MappingProxyType({state.shard: state for state in found if state}),
            singletons=_singletons(singletons),
            config=_config(config),
            orders=_orders(singletons),
            duties=_duties(duties),
        )

    def with_members(self, members: Iterable[Member]) -> Self:
        return replace(self, members=_in_order(members))

    def with_shards(self, changed: Iterable[str], nodes: Mapping[str, Node]) -> Self:
        """The shards among `changed` parsed again, the others as they were."""
        shards = dict(self.shards)
        for name in {path.partition("/")[0] for path in changed} - {""}:
            state = _shard(name, nodes)
            if state is not None:
                shards[state.shard] = state
            elif name.isdigit():
                shards.pop(ShardId(int(name)), None)
        return replace(self, shards=MappingProxyType(shards))

    def with_singletons(self, nodes: Mapping[str, Node]) -> Self:
        return replace(self, singletons=_singletons(nodes), orders=_orders(nodes))

    def with_duties(self, nodes: Mapping[str, Node]) -> Self:
        return replace(self, duties=_duties(nodes))

    def with_config(self, nodes: Mapping[str, Node]) -> Self:
        return replace(self, config=_config(nodes))

    def owner(self, shard: ShardId) -> EngineId | None:
        state = self.shards.get(shard)
        return state.owner if state else None

    def owned(self) -> Counter[EngineId]:
        """How many shards each engine owns."""
        return Counter(state.owner for state in self.shards.values() if state.owner is not None)


def _in_order(members: Iterable[Member]) -> tuple[Member, ...]:
    return tuple(sorted(members, key=lambda member: member.engine))


def _shard(name: str, nodes: Mapping[str, Node]) -> ShardState | None:
    node = nodes.get(name)
    if node is None or not name.isdigit():
        return None
    said = _said(name, node)
    last_owner = _engine(said)
    owner = nodes.get(f"{name}/owner")
    return ShardState(
        shard=ShardId(int(name)),
        owner=_engine(_said(f"{name}/owner", owner)) or last_owner if owner is not None else None,
        last_owner=last_owner,
        since=_moment(owner.stat.ctime_ms) if owner is not None else None,
        version=node.stat.version,
    )


def _singletons(nodes: Mapping[str, Node]) -> Mapping[str, tuple[Candidate, ...]]:
    lines: dict[str, list[tuple[str, Candidate]]] = {
        name: [] for name in sorted(nodes) if name and "/" not in name
    }
    for path, node in nodes.items():
        found = _CANDIDATE.fullmatch(path)
        if found is None:
            continue
        engine = _engine(_said(path, node)) or EngineId(node.data.decode("utf-8", "replace")[:255])
        candidate = Candidate(engine=engine, since=_moment(node.stat.ctime_ms))
        lines.setdefault(found["singleton"], []).append((found["place"], candidate))
    ordered = {name: sorted(line, key=lambda entry: entry[0]) for name, line in lines.items()}
    return MappingProxyType({name: tuple(entry[1] for entry in line) for name, line in ordered.items()})


def _orders(nodes: Mapping[str, Node]) -> Mapping[str, Orders]:
    found: dict[str, Orders] = {}
    for name, node in nodes.items():
        if name and "/" not in name:
            try:
                found[name] = Orders.from_node(node)
            except MalformedNode as error:
                LOG.warning("node=%s: %s", name, error)
    return MappingProxyType(found)


def _duties(nodes: Mapping[str, Node]) -> Mapping[EngineId, Mapping[str, DutyStatus]]:
    found: dict[EngineId, Mapping[str, DutyStatus]] = {}
    for name, node in sorted(nodes.items()):
        if name:
            try:
                told = EngineDuties.from_node(name, node)
            except MalformedNode as error:
                LOG.warning("node=%s: %s", name, error)
            else:
                found[told.engine] = MappingProxyType({duty.name: duty for duty in told.duties})
    return MappingProxyType(found)


def _config(nodes: Mapping[str, Node]) -> Mapping[str, Node]:
    return MappingProxyType({path: node for path, node in sorted(nodes.items()) if path.count("/") == 1})


def _said(path: str, node: Node) -> Any:
    """What the node says; none for one without data (a parent that was only made)."""
    if not node.data:
        return None
    try:
        return node.json()
    except MalformedNode as error:
        LOG.warning("node=%s: %s", path, error)
        return None


def _engine(said: Any) -> EngineId | None:
    engine = said.get("engine") if isinstance(said, dict) else None
    return EngineId(engine) if isinstance(engine, str) and engine else None


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
