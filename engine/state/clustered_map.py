"""A replicated map in the hands of whoever opened it: `engine.plugin.ClusteredMap`.

Reads are reads of a dict in this process and may be a moment old; writes go through `writing.py`. The map
stays readable while ZooKeeper is away, and writes are refused then.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

import msgspec

from engine.errors import Conflict, InvalidInput, Unavailable
from engine.plugin import Guard, Versioned
from engine.state import writing
from engine.state.entries import Changes, Entries, Entry
from engine.state.keys import node_of
from engine.state.writing import MOST_VALUE_BYTES, Attachment, Change

V = TypeVar("V")

_encode = msgspec.json.Encoder(order="deterministic").encode


class OpenMap(Mapping[str, V], Generic[V]):
    """Made by `Maps.open`. `attachment` is the map in the present session; None while there is none."""

    def __init__(
        self,
        entries: Entries[V],
        kind: type[V],
        attachment: Callable[[], Attachment | None],
        *,
        of_session: bool,
    ) -> None:
        self._entries = entries
        self._values = entries.values
        self._kind = kind
        self._attachment = attachment
        self._of_session = of_session
        self._closed = False
        self._listening: weakref.WeakSet[Changes[V]] = weakref.WeakSet()

    @property
    def name(self) -> str:
        return self._entries.name

    @property
    def current(self) -> bool:
        """Whether what is read here is what there is, but for what is on its way."""
        attachment = self._attachment()
        return attachment is not None and attachment.replica.current

    def __getitem__(self, key: str) -> V:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._values))

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def get(self, key: str, /, default: V | None = None) -> V | None:  # type: ignore[override]
        return self._values.get(key, default)

    def versioned(self, key: str) -> Versioned[V] | None:
        return self._entries.versioned(key)

    async def put(
        self, key: str, value: V, *, if_version: int | None = None, guard: Guard | None = None
    ) -> int:
        change = self._change(key, value)
        if if_version is None:
            version = await writing.put(change, guard=guard)
        else:
            version = await writing.put(change, when=_is(if_version), guard=guard)
        if version is None:
            raise self._conflict(key, if_version)
        return version

    async def put_if_absent(self, key: str, value: V, *, guard: Guard | None = None) -> bool:
        written = await writing.put(self._change(key, value), when=_is_absent, guard=guard)
        return written is not None

    async def replace(self, key: str, value: V, *, guard: Guard | None = None) -> bool:
        written = await writing.put(self._change(key, value), when=_is_present, guard=guard)
        return written is not None

    async def remove(self, key: str, *, if_version: int | None = None, guard: Guard | None = None) -> bool:
        change = self._change(key, None)
        if if_version is None:
            return bool(await writing.remove(change, guard=guard))
        removed = await writing.remove(change, when=_is(if_version), guard=guard)
        if not removed:
            raise self._conflict(key, if_version)
        return True

    async def compute(
        self, key: str, fn: Callable[[V | None], V | None], *, guard: Guard | None = None
    ) -> V | None:
        late = True  # what is known here may be
        while True:
            change = self._change(key, None)
            if change.pending:
                await change.at.replica.settled()
            known = change.known
            value = fn(self._values.get(key))
            if value is not None:
                when = _is_absent if known is None else _is(known.version)
                if await writing.put(self._change(key, value), when=when, guard=guard) is not None:
                    return value
            elif known is not None:
                if await writing.remove(change, when=_is(known.version), guard=guard):
                    return None
            elif not late:
                return None
            else:
                await change.at.replica.fresh()
                late = False

    async def update_many(self, values: Mapping[str, V | None], *, guard: Guard | None = None) -> None:
        await writing.update([self._change(key, value) for key, value in values.items()], guard=guard)

    def changes(self) -> Changes[V]:
        listening = Changes(self._entries)
        if self._closed:
            raise Unavailable(f"map {self.name} has been closed")
        self._entries.listeners.add(listening)
        self._listening.add(listening)
        return listening

    async def fresh(self) -> None:
        await self._attached().replica.fresh()

    def close(self) -> None:
        """No more writes and changes through this one; whoever listens is let go."""
        self._closed = True
        for listening in list(self._listening):
            listening.end()

    def change_of(self, key: str, value: V | None) -> Change:
        """For a transaction over several maps."""
        return self._change(key, value)

    def _attached(self) -> Attachment:
        attachment = None if self._closed else self._attachment()
        if attachment is None:
            why = "it has been closed" if self._closed else "this engine has no session with ZooKeeper"
            raise Unavailable(f"map {self.name} cannot be written or compared: {why}")
        return attachment

    def _change(self, key: str, value: V | None) -> Change:
        node_of(key)  # refuses what cannot be a key
        data = None if value is None else self._encoded(key, value)
        return Change(self._entries, self._attached(), key, data, ephemeral=self._of_session)

    def _encoded(self, key: str, value: V) -> bytes:
        kind = getattr(self._kind, "__name__", str(self._kind))
        if isinstance(self._kind, type) and not isinstance(value, self._kind):
            raise InvalidInput(
                f"map {self.name} holds {kind}, not {type(value).__name__}", fields={"value": f"is a {kind}"}
            )
        try:
            data: bytes = _encode(value)
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            raise InvalidInput(f"the value of {key} in map {self.name} is no JSON: {error}") from error
        if len(data) > MOST_VALUE_BYTES:
            raise InvalidInput(
                f"the value of {key} in map {self.name} has {len(data)} bytes of JSON, at most"
                f" {MOST_VALUE_BYTES} are kept; larger state belongs into the database",
                fields={"value": f"has at most {MOST_VALUE_BYTES} bytes of JSON"},
            )
        return data

    def _conflict(self, key: str, wanted: int | None) -> Conflict:
        known = self._entries.entry(key)
        there = "it is not there" if known is None else f"it has version {known.version}"
        return Conflict(f"{key} of map {self.name} has not version {wanted}: {there}")


def _is(version: int) -> Callable[[Entry | None], bool]:
    return lambda known: known is not None and known.version == version


def _is_absent(known: Entry | None) -> bool:
    return known is None


def _is_present(known: Entry | None) -> bool:
    return known is not None
