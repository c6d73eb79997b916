"""The line of those who wait for one key: /waits/<key>, one ephemeral sequential node each.

Each watches the one before it, so a release wakes one. The line itself is a ZooKeeper container: the
last to leave removes it, and where the last one died the server does. Waiters hold nothing else
while they stand here, so none can wait for another in a circle.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from engine.coordination.operations import Create, Delete, Reason, Rejected
from engine.coordination.session import Session
from engine.errors import AuthorityLost, EngineError, NotFound, OutcomeUnknown, Unavailable
from engine.locks.keys import Key
from engine.locks.watches import Watches, steadily

_SEQUENCE_DIGITS = 10


class Displaced(EngineError):
    """Our node in the line is gone, though the session lives: somebody's hand. Queue up again."""


def prefix_of(place: str) -> str:
    """What the name of a place began with, given its path."""
    return place.rpartition("/")[2][: -_SEQUENCE_DIGITS - 1]


def in_order(names: Iterable[str]) -> list[str]:
    """First come, first."""
    return sorted(names, key=lambda name: name[-_SEQUENCE_DIGITS:])


class Place:
    """One waiter's place. `prefix` is unique, so that a place whose creation went unanswered is found."""

    def __init__(
        self,
        session: Session,
        watches: Watches,
        key: Key,
        prefix: str,
        data: bytes,
        hold: Create | None = None,
    ) -> None:
        """`hold` is made with the place."""
        self.key = key
        self.hold = hold
        self._session = session
        self._watches = watches
        self._line = session.paths.line(key)
        self._prefix = f"{prefix}-"
        self._data = data
        self._name = ""
        self._left = False
        self.alone = True
        """Nobody was behind, when last looked at."""

    async def join(self) -> None:
        """Queue up at the end."""
        create = Create(f"{self._line}/{self._prefix}", self._data, ephemeral=True, sequence=True)
        operations = [create] if self.hold is None else [create, self.hold]
        while not self._name:
            try:
                results = await self._session.commit(*operations)
                self._name = results[0].path.rpartition("/")[2]
            except Rejected as refused:
                if refused.reason is Reason.EXISTS:
                    raise Displaced(f"{refused.path} is there without a place in the line") from refused
                if refused.reason is not Reason.ABSENT:
                    raise
                await self._found_line(operations)
            except OutcomeUnknown:
                self._name = await self._found()
            except Unavailable:
                await self._reconnected()

    async def first(self) -> None:
        """Return when nobody stands before this place. Raises `Displaced`, `SessionEnded`."""
        while True:
            names = in_order(await steadily(self._session, self._names))
            if self._name not in names:
                raise Displaced(f"the place {self._line}/{self._name} is gone")
            at = names.index(self._name)
            if at == 0:
                self.alone = len(names) == 1
                return
            before = f"{self._line}/{names[at - 1]}"
            with self._watches.on(before) as bell:
                there = await steadily(self._session, lambda: self._session.exists(before, watch=True))  # noqa: B023
                if there is not None:
                    await bell.heard()

    def leaving(self) -> list[Delete]:
        """For the transaction that takes the lock: our node, and the line, if we are alone in it."""
        mine = Delete(f"{self._line}/{self._name}")
        return [mine, Delete(self._line)] if self.alone else [mine]

    def left(self) -> None:
        """That transaction held."""
        self._left = True

    @property
    def cleared(self) -> bool:
        """The line is gone, and our place with it."""
        return self._left and self.alone

    async def leave(self) -> str:
        """Remove what is left of this place, and the line with it when it was the last; else the path of
        whoever is first there now."""
        while not self._session.ended.is_set():
            try:
                if not self._left:
                    self._name = self._name or await self._found()
                    if self._name:
                        await self._delete(f"{self._line}/{self._name}")
                    self._left = True
                # Whoever is there now looks after leaving, as we do: the last one finds nobody.
                if names := in_order(await self._names()):
                    return f"{self._line}/{names[0]}"
                await self._delete(self._line)
                return ""
            except Unavailable:
                with contextlib.suppress(Unavailable, AuthorityLost):  # the loop looks whether it is over
                    await self._reconnected()
            except AuthorityLost:
                return ""
        return ""

    async def _found_line(self, operations: Sequence[Create]) -> None:
        try:
            results = await self._session.commit(Create(self._line, container=True), *operations)
            self._name = results[1].path.rpartition("/")[2]
        except Rejected as refused:
            if refused.reason is Reason.ABSENT:
                await self._session.ensure(self._session.paths.waits)
                await self._session.ensure(self._session.paths.holds)
            elif refused.reason is not Reason.EXISTS:
                raise

    async def _found(self) -> str:
        """Our node's name, if there is one, as of all that was sent before."""
        await self._reconnected()
        await self._session.sync(self._line)
        return next((name for name in await self._names() if name.startswith(self._prefix)), "")

    async def _names(self) -> list[str]:
        try:
            return await self._session.children(self._line)
        except NotFound:
            return []

    async def _delete(self, path: str) -> None:
        try:
            await self._session.delete(path)
        except Rejected as refused:
            if refused.reason not in (Reason.ABSENT, Reason.NOT_EMPTY):
                raise

    async def _reconnected(self) -> None:
        await self._session.wait_connected(self._session.identity.timeout_seconds)
