"""What the cluster sets, in ZooKeeper: read, changed as a whole, and remembered.

A change of many options is one transaction: each node at the version that was read, and with them the
change's own record below /config-history, so that no value changes without a trace but by zkCli. The
guard is each node's version; where somebody was quicker the change is made anew on what is there then,
unless the caller named versions. Used by the API, with the session of the moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import orjson

from engine.clock import utcnow
from engine.coordination.operations import (
    Create,
    Delete,
    MalformedNode,
    Node,
    Operation,
    Reason,
    Rejected,
    SetData,
)
from engine.coordination.session import Session
from engine.errors import Conflict, InvalidInput, NotFound

MOST_CHANGES = 100
"""In one transaction."""
KEPT = 1000
"""Records of changes; the oldest go when new ones come."""
_TRIES = 5
_DELETED_AT_ONCE = 5


@dataclass(frozen=True, slots=True)
class Change:
    """One option's: JSON as it stood in the node, None where there was none."""

    key: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """Who changed what, when; `engine` where it was for one engine only."""

    number: int
    at: datetime
    user: str
    comment: str
    engine: str | None
    changes: tuple[Change, ...]

    @classmethod
    def of(cls, name: str, said: Any) -> Self:
        """From the name of the record's node and what it says. Raises `MalformedNode`."""
        try:
            return cls(
                number=int(name),
                at=datetime.fromisoformat(said["at"]),
                user=said["user"],
                comment=said["comment"],
                engine=said["engine"],
                changes=tuple(Change(**change) for change in said["changes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedNode(f"config-history/{name} is no record of a change: {error!r}") from error


class SharedConfiguration:
    """Of the whole cluster, or of one `engine` where a method is given one."""

    def __init__(self, session: Session, *, now: Callable[[], datetime] = utcnow) -> None:
        self._session = session
        self._paths = session.paths
        self._now = now

    async def values(self, engine: str | None = None) -> dict[str, Node]:
        """What is set, by `group/option`; as it is at this moment or later."""
        root = self._root(engine)
        await self._session.sync(self._paths.root)
        try:
            groups = await self._session.children(root)
        except NotFound:
            return {}
        lists = await self._session.children_of_many([f"{root}/{group}" for group in groups])
        keys = [f"{group}/{name}" for group, names in zip(groups, lists, strict=True) for name in names]
        nodes = await self._session.get_many([f"{root}/{key}" for key in keys])
        return {key: node for key, node in zip(keys, nodes, strict=True) if node is not None}

    async def change(
        self,
        wanted: Mapping[str, bytes | None],
        *,
        user: str,
        comment: str = "",
        engine: str | None = None,
        versions: Mapping[str, int] | None = None,
    ) -> Revision | None:
        """Set options (None: unset) all together; None where everything was like that already.

        `versions`: what the nodes of these keys have to be at (-1: absent). Raises `Conflict` where they
        are not, or others kept changing the same; `OutcomeUnknown`, `Unavailable`.
        """
        if len(wanted) > MOST_CHANGES:
            raise InvalidInput(f"{len(wanted)} options in one change; at most {MOST_CHANGES}")
        await self._session.ensure(self._paths.config_history)
        await self._session.ensure(self._root(engine))
        for _ in range(_TRIES):
            operations, changes = await self._planned(wanted, engine, versions or {})
            if not changes:
                return None
            record = {
                "at": self._now().isoformat(timespec="milliseconds"),
                "user": user,
                "comment": comment,
                "engine": engine,
                "changes": [{"key": c.key, "old": c.old, "new": c.new} for c in changes],
            }
            kept = Create(f"{self._paths.config_history}/", orjson.dumps(record), sequence=True)
            surplus = await self._surplus()
            try:
                results = await self._session.commit(*operations, kept, *surplus)
            except Rejected as refusal:
                if refusal.reason is Reason.NOT_EMPTY:
                    raise Conflict(f"{refusal.path} has nodes below it: delete them with zkCli") from None
                continue
            name = results[len(operations)].path.rpartition("/")[2]
            return Revision.of(name, record)
        raise Conflict("others are changing the same options at this moment: look again, and try again")

    async def history(self, *, limit: int, before: int | None = None) -> list[Revision]:
        """The newest first, older than the revision `before`."""
        try:
            names = await self._session.children(self._paths.config_history)
        except NotFound:
            return []
        chosen = [name for name in reversed(names) if before is None or int(name) < before][:limit]
        nodes = await self._session.get_many([f"{self._paths.config_history}/{name}" for name in chosen])
        return [
            Revision.of(name, node.json())
            for name, node in zip(chosen, nodes, strict=True)
            if node is not None
        ]

    async def undoing(self, number: int, engine: str | None = None) -> dict[str, bytes | None]:
        """What to write so that all is as it was right after revision `number`.

        Raises `NotFound` when there is no such revision, or it is too old to be known.
        """
        revisions = await self.history(limit=KEPT + _DELETED_AT_ONCE)
        if number not in {revision.number for revision in revisions}:
            known = f"{revisions[-1].number} to {revisions[0].number}" if revisions else "none"
            raise NotFound(f"there is no revision {number} of the configuration: known are {known}")
        back: dict[str, bytes | None] = {}
        for revision in revisions:  # the newest first, so the oldest one's `old` stays
            if revision.number <= number or revision.engine != engine:
                continue
            for change in revision.changes:
                back[change.key] = change.old.encode() if change.old is not None else None
        return back

    async def progress(self) -> list[dict[str, Any]]:
        """What each process says of itself, by its name: see `live.ConfigurationStatus`."""
        try:
            names = await self._session.children(self._paths.config_status)
        except NotFound:
            return []
        nodes = await self._session.get_many([f"{self._paths.config_status}/{name}" for name in names])
        return [
            {"name": name, **node.json()} for name, node in zip(names, nodes, strict=True) if node is not None
        ]

    # --- inside -----------------------------------------------------------------------------------

    def _root(self, engine: str | None) -> str:
        return self._paths.config if engine is None else self._paths.config_of(engine)

    async def _planned(
        self, wanted: Mapping[str, bytes | None], engine: str | None, versions: Mapping[str, int]
    ) -> tuple[list[Operation], list[Change]]:
        root = self._root(engine)
        keys = sorted(wanted)
        groups = sorted({f"{root}/{key.partition('/')[0]}" for key in keys if wanted[key] is not None})
        await self._session.sync(self._paths.root)
        present = await self._session.get_many([f"{root}/{key}" for key in keys])
        there = await self._session.get_many(groups)
        operations: list[Operation] = [
            Create(group) for group, node in zip(groups, there, strict=True) if node is None
        ]
        changes: list[Change] = []
        for key, node in zip(keys, present, strict=True):
            self._require_version(key, node, versions)
            operation = _operation(f"{root}/{key}", node, wanted[key])
            if operation is not None:
                operations.append(operation)
                changes.append(Change(key, _text(node.data if node else None), _text(wanted[key])))
        return operations, changes

    @staticmethod
    def _require_version(key: str, node: Node | None, versions: Mapping[str, int]) -> None:
        version = node.stat.version if node is not None else -1
        if key in versions and version != versions[key]:
            now = f"at version {version}" if node is not None else "not set"
            raise Conflict(f"{key.replace('/', '.')} was changed meanwhile: it is {now}; look again")

    async def _surplus(self) -> Sequence[Operation]:
        names = await self._session.children(self._paths.config_history)
        oldest = names[: max(0, min(len(names) + 1 - KEPT, _DELETED_AT_ONCE))]
        return [Delete(f"{self._paths.config_history}/{name}") for name in oldest]


def _operation(path: str, node: Node | None, data: bytes | None) -> Operation | None:
    if node is None:
        return Create(path, data) if data is not None else None
    if data is None:
        return Delete(path, node.stat.version)
    return SetData(path, data, node.stat.version) if data != node.data else None


def _text(data: bytes | None) -> str | None:
    return data.decode("utf-8", "replace") if data is not None else None
