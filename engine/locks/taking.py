"""Takes holds: all keys or none, in one transaction; refused, it learns what stands in the way.

A refusal is looked into before it is believed: the key may be free again, its container may be one that
a crash left empty, or shared by others as we would share it. Who waits queues at the key that refused
and then tries all keys again; nothing is held meanwhile, so waiting cannot deadlock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TypeVar

from engine.coordination.operations import Create, Delete, MalformedNode, Node, Reason, Rejected
from engine.coordination.session import Session
from engine.errors import EngineError, NotFound, OutcomeUnknown, Unavailable
from engine.locks.commits import GroupCommit
from engine.locks.holds import AlreadyHeld, Hold, HoldView, LockRefused
from engine.locks.keys import FOREVER, Forever, Key, Mode
from engine.locks.line import Displaced, Place
from engine.locks.release import Releases
from engine.locks.transactions import SHARED_VERSION, Found, Step, taking
from engine.locks.watches import Watches, steadily

Wait = timedelta | Forever | None

_REMEMBERED = 1000

T = TypeVar("T")


class Takings:
    """`tasks` says which task took a hold of this session, so that it is told when it asks again."""

    def __init__(
        self,
        session: Session,
        commits: GroupCommit,
        releases: Releases,
        watches: Watches,
        *,
        incarnation: int,
        tasks: Mapping[str, asyncio.Task[object] | None],
    ) -> None:
        self._session = session
        self._commits = commits
        self._releases = releases
        self._watches = watches
        self._incarnation = incarnation
        self._tasks = tasks
        self._seen: dict[str, HoldView] = {}
        self._contended: dict[Key, tuple[Mode, HoldView]] = {}

    async def take(self, hold: Hold, wait: Wait) -> int:
        """The czxid of the hold. Raises `LockRefused`, at the latest when `wait` has passed."""
        contended = next((key for key in hold.modes if key in self._contended), None)
        if contended is None or wait is None:
            try:
                if contended is not None:
                    await self._look_first(contended, hold.modes[contended])
                czxid = await self._attempt(hold)
            except AlreadyHeld:
                raise
            except LockRefused as error:
                if wait is None:
                    raise
                latest = [error]
            else:
                self._uncontended(hold.modes)
                return czxid
        else:
            # There is a line, or was lately: who is ready to wait does not pass it.
            latest = [LockRefused(contended, *self._contended[contended])]
        seconds = None if wait is FOREVER else wait.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                return await self._wait(hold, latest)
        except TimeoutError:
            raise latest[-1] from None

    async def _look_first(self, key: Key, mode: Mode) -> None:
        """Where a try was refused lately, a read finds out for half the price of a transaction; the
        `sync` sent before it makes it see all that was written before."""
        catching_up = asyncio.create_task(self._session.sync(self._session.paths.lock(key)))
        await asyncio.sleep(0)  # now it is on its way; the read follows without waiting for the answer
        try:
            await self._look(key, mode)
        finally:
            await catching_up

    # --- one try ----------------------------------------------------------------------------------

    async def _attempt(self, hold: Hold, place: Place | None = None) -> int:
        """Take all keys now, and leave the line in the same transaction. Raises `LockRefused`."""
        data = hold.to_json()
        found: dict[Key, Found] = {}
        while True:
            steps = taking(self._session.paths, hold.nonce, data, hold.modes, found, ephemeral=hold.ephemeral)
            steps += [Step(operation) for operation in place.leaving()] if place is not None else []
            outcome = self._commits.submit(
                [step.operation for step in steps], lambda error: self._abandoned(hold, data, error)
            )
            try:
                try:
                    czxid: int | None = await outcome
                except OutcomeUnknown:
                    czxid = await self._settled(hold, data)
                if czxid is not None:
                    return czxid
                continue
            except asyncio.CancelledError:
                if not outcome.cancelled():  # it was answered just before, or not at all
                    self._abandoned(hold, data, outcome.exception())
                raise
            except Rejected as refused:
                step, reason = steps[refused.index], refused.reason
            if step.key is not None:
                if reason is Reason.ABSENT and isinstance(step.operation, Create):
                    await self._prepare()
                else:
                    found[step.key] = await self._look(step.key, hold.modes[step.key])
            elif place is not None and isinstance(step.operation, Delete):
                if reason is not Reason.NOT_EMPTY:
                    raise Displaced(f"{step.operation.path} is gone")
                place.alone = False  # somebody has just queued up behind us
            elif reason is Reason.ABSENT:
                await self._prepare()
            elif (czxid := await self._settled(hold, data)) is not None:
                return czxid

    async def _settled(self, hold: Hold, data: bytes) -> int | None:
        """Is the hold ours, now that nobody told us? Raises `AlreadyHeld` where another try has it."""
        path = self._session.paths.hold(hold.nonce)
        await self._session.wait_connected(self._session.identity.timeout_seconds)
        await self._session.sync(path)
        node = await self._session.get(path)
        if node is None:
            return None
        if node.data == data:
            return node.stat.czxid
        view = self._view(hold.nonce, node)
        key, mode = next(iter((view.modes if view else hold.modes).items()))
        raise AlreadyHeld(key, mode, view or HoldView.unknown(hold.nonce, key, mode))

    def _abandoned(self, hold: Hold, data: bytes, error: BaseException | None) -> None:
        """Whoever asked was cancelled before the answer: nobody would release what was taken."""
        taken = error is None
        if (taken or isinstance(error, OutcomeUnknown)) and not self._session.ended.is_set():
            self._session.background(self._undo(hold, data, taken=taken), name=f"undo {hold.nonce}")

    async def _undo(self, hold: Hold, data: bytes, *, taken: bool) -> None:
        try:
            if not taken and await steadily(self._session, lambda: self._settled(hold, data)) is None:
                return
            await steadily(self._session, lambda: self._releases.end(hold.nonce, hold.modes))
        except EngineError:
            return  # refused, so nothing was taken; or the session is over, and the hold with it

    async def _prepare(self) -> None:
        await self._session.ensure(self._session.paths.holds)
        await self._session.ensure(self._session.paths.locks)

    # --- what stands in the way -------------------------------------------------------------------

    async def _look(self, key: Key, mode: Mode, *, watch: bool = False) -> Found:
        """What a taker in `mode` finds. Raises `LockRefused`; with `watch`, an event then follows when
        that may have changed."""
        path = self._session.paths.lock(key)
        orphan = -1
        while True:
            node = await self._session.get(path, watch=watch)
            if node is None:
                return Found.ABSENT
            if node.stat.version != SHARED_VERSION:
                nonce, held = node.data.decode("utf-8", "replace"), Mode.EXCLUSIVE
            elif mode is Mode.SHARED:
                return Found.SHARED
            else:
                names = await self._sharers(path, watch) if watch or node.stat.children else []
                if not names:
                    return Found.EMPTY
                nonce, held = names[0], Mode.SHARED
            holder = await self._holder(nonce)
            if holder is None and orphan != node.stat.czxid:
                orphan = node.stat.czxid  # released between our two reads, most likely
                continue
            holder = holder or HoldView.unknown(nonce, key, held)
            if self._tasks.get(nonce) is asyncio.current_task() and nonce in self._tasks:
                raise AlreadyHeld(key, held, holder)
            _remember(self._contended, key, (held, holder))
            raise LockRefused(key, held, holder)

    def _uncontended(self, keys: Iterable[Key]) -> None:
        if self._contended:
            for key in keys:
                self._contended.pop(key, None)

    async def _sharers(self, path: str, watch: bool) -> list[str]:
        try:
            return await self._session.children(path, watch=watch)
        except NotFound:
            return []

    async def _holder(self, nonce: str) -> HoldView | None:
        if nonce not in self._seen:
            node = await self._session.get(self._session.paths.hold(nonce))
            view = self._view(nonce, node) if node is not None else None
            if view is None:
                return None
            _remember(self._seen, nonce, view)
        return self._seen[nonce]

    def _view(self, nonce: str, node: Node) -> HoldView | None:
        try:
            return HoldView.from_node(nonce, node, incarnation=self._incarnation)
        except MalformedNode:
            return None

    # --- waiting ----------------------------------------------------------------------------------

    async def _wait(self, hold: Hold, latest: list[LockRefused]) -> int:
        while True:
            place = Place(self._session, self._watches, latest[-1].key, hold.attempt, hold.to_json())
            leaves = True
            try:
                await place.join()
                czxid = await self._at_head(hold, place, latest)
                leaves = place.left()
                return czxid
            except Displaced:
                continue
            except _Elsewhere:
                continue
            finally:
                if leaves and not self._session.ended.is_set():
                    self._session.background(place.leave(), name=f"leave {place.key}")

    async def _at_head(self, hold: Hold, place: Place, latest: list[LockRefused]) -> int:
        """Wait to be first in the line, then for the lock. Raises `_Elsewhere` when another key
        refused."""
        key, mode = place.key, hold.modes[place.key]
        await place.first()
        with self._watches.on(self._session.paths.lock(key)) as bell:
            while True:
                try:
                    await steadily(self._session, lambda: self._look(key, mode, watch=True))
                except AlreadyHeld:
                    raise
                except LockRefused as refused:
                    latest.append(refused)
                    await bell.heard()
                    if refused.mode is Mode.SHARED:
                        continue  # one of perhaps many sharers has left
                try:
                    czxid = await self._attempt(hold, place)
                    if place.alone:
                        self._uncontended((key,))
                    return czxid
                except AlreadyHeld:
                    raise
                except LockRefused as refused:
                    latest.append(refused)
                    if refused.key != key:
                        raise _Elsewhere from refused
                except Unavailable:
                    await self._session.wait_connected(self._session.identity.timeout_seconds)


def _remember(where: dict[str, T], name: str, value: T) -> None:
    """The oldest goes."""
    if name not in where and len(where) >= _REMEMBERED:
        del where[next(iter(where))]
    where[name] = value


class _Elsewhere(Exception):
    """Another key stands in the way now."""
