"""Takes holds: all keys or none, in one transaction; refused, it learns what stands in the way.

A refusal is looked into before it is believed: the key may be free again, its container may be one that
a crash left empty, or shared by others as we would share it. Who waits queues at the key that refused
and then tries all keys again; nothing is held meanwhile, so waiting cannot deadlock.

Who had to wait looks behind himself, once he has the lock: if the next one waits for this key alone, he
is the heir, to whom the release hands it on in its own transaction. He may be gone by then; then the
release is tried again without him, and whoever was handed a lock that he no longer wants releases it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from engine.coordination.operations import Create, Delete, Reason, Rejected
from engine.coordination.session import Session
from engine.errors import AuthorityLost, EngineError, OutcomeUnknown, Unavailable
from engine.locks.commits import GroupCommit
from engine.locks.holds import AlreadyHeld, Hold, HoldView, LockRefused, once_held
from engine.locks.keys import FOREVER, Forever, Key, Mode
from engine.locks.line import Displaced, Place, prefix_of
from engine.locks.looking import Received, Sight
from engine.locks.release import Releases
from engine.locks.transactions import (
    HELD_AFTER_WAITING,
    HELD_AT_ONCE,
    Found,
    Heir,
    Orphaned,
    Step,
    adopting,
    taking,
)
from engine.locks.watches import Watches, steadily

Wait = timedelta | Forever | None


@dataclass(frozen=True, slots=True)
class Taken:
    """`hold` as it was had at `zxid`; `handed` are the keys that somebody else's release gave to it."""

    hold: Hold
    zxid: int
    version: int
    handed: frozenset[Key] = frozenset()


class Takings:
    """`heirs` are the heirs of holds of this session, as far as they are known; `tasks` says which are
    held, and by which task."""

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
        self._sight = Sight(session, watches, incarnation=incarnation, tasks=tasks)
        self._tasks = tasks
        self.heirs: dict[str, Heir] = {}

    async def take(self, hold: Hold, wait: Wait) -> Taken:
        """The hold, or one in its place. Raises `LockRefused`, at the latest when `wait` has passed."""
        contended = self._sight.contended(hold.modes)
        if contended is None or wait is None:
            try:
                if contended is not None:
                    await self._sight.look_first(contended.key, hold.modes[contended.key])
                taken = await self._attempt(hold)
            except AlreadyHeld:
                raise
            except LockRefused as error:
                if wait is None:
                    raise
                latest = [error]
            else:
                self._sight.uncontended(hold.modes)
                return taken
        else:
            # There is a line, or was lately: who is ready to wait does not pass it.
            latest = [contended]
        seconds = None if wait is FOREVER else wait.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                return await self._wait(hold, latest)
        except TimeoutError:
            raise latest[-1] from None

    # --- one try ----------------------------------------------------------------------------------

    async def _attempt(self, hold: Hold, place: Place | None = None) -> Taken:
        """Take all keys now, and leave the line in the same transaction. Raises `LockRefused`."""
        data = hold.to_json()
        found: dict[Key, Found | Orphaned] = {}
        waited = place is not None and place.hold is not None
        while True:
            steps = taking(
                self._session.paths,
                hold.nonce,
                data,
                hold.modes,
                found,
                ephemeral=hold.ephemeral,
                waited=waited,
            )
            steps += [Step(operation) for operation in place.leaving()] if place is not None else []
            outcome = self._commits.submit(
                [step.operation for step in steps], lambda error: self._abandoned(hold, data, error)
            )
            try:
                try:
                    zxid = await outcome
                    if place is not None:
                        place.left()
                    return Taken(hold, zxid, HELD_AFTER_WAITING if waited else HELD_AT_ONCE)
                except OutcomeUnknown:
                    if (taken := await self._settled(hold, data)) is not None:
                        return taken
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
                    found[step.key] = await self._sight.look(step.key, hold.modes[step.key])
            elif place is not None and isinstance(step.operation, Delete):
                if reason is not Reason.NOT_EMPTY:
                    raise Displaced(f"{step.operation.path} is gone")
                place.alone = False  # somebody has just queued up behind us
            elif waited and reason is Reason.ABSENT:
                raise Displaced(f"the hold {hold.nonce} that waited is gone")
            elif reason is Reason.ABSENT:
                await self._prepare()
            elif (taken := await self._settled(hold, data)) is not None:
                return replace(taken, handed=frozenset(hold.modes)) if waited else taken

    async def _settled(self, hold: Hold, data: bytes) -> Taken | None:
        """Is the hold ours, now that nobody told us? Raises `AlreadyHeld` where another try has it."""
        path = self._session.paths.hold(hold.nonce)
        await self._session.wait_connected(self._session.identity.timeout_seconds)
        await self._session.sync(path)
        node = await self._session.get(path)
        if node is None or once_held(node.data) is not None:
            return None
        if node.data == data:
            return Taken(hold, node.stat.mzxid, node.stat.version)
        view = self._sight.view(hold.nonce, node)
        key, mode = next(iter((view.modes if view else hold.modes).items()))
        raise AlreadyHeld(key, mode, view or HoldView.unknown(hold.nonce, key, mode))

    def _abandoned(self, hold: Hold, data: bytes, error: BaseException | None) -> None:
        """Whoever asked was cancelled before the answer: nobody would release what was taken."""
        taken = error is None
        if (taken or isinstance(error, OutcomeUnknown)) and not self._session.ended.is_set():
            self._session.background(self._undo(hold, data), name=f"undo {hold.nonce}")

    async def _undo(self, hold: Hold, data: bytes) -> None:
        try:
            found = await steadily(self._session, lambda: self._settled(hold, data))
            if found is not None:
                end = self._releases.end
                await steadily(self._session, lambda: end(hold.nonce, hold.modes, version=found.version))
        except EngineError:
            return  # refused, so nothing was taken; or the session is over, and the hold with it

    async def _prepare(self) -> None:
        await self._session.ensure(self._session.paths.holds)
        await self._session.ensure(self._session.paths.locks)

    # --- waiting ----------------------------------------------------------------------------------

    async def _wait(self, hold: Hold, latest: list[LockRefused]) -> Taken:
        while True:
            place = self._place(hold, latest[-1].key)
            taken = None
            try:
                await place.join()
                taken = await self._at_head(hold, place, latest)
                return taken
            except (Displaced, _Elsewhere):
                if place.hold is not None:
                    hold = hold.anew()  # what is left of this one is being cleared away
            finally:
                if self._session.ended.is_set():
                    pass
                elif taken is None:
                    self._session.background(self._withdraw(hold, place), name=f"leave {place.key}")
                elif not place.cleared:
                    self._session.background(self._look_behind(taken, place), name=f"heir of {place.key}")

    def _place(self, hold: Hold, key: Key) -> Place:
        waiting = None
        if hold.ephemeral and hold.modes == {key: Mode.EXCLUSIVE}:
            path = self._session.paths.hold(hold.nonce)
            waiting = Create(path, hold.to_json(waiting=True), ephemeral=True)
        return Place(self._session, self._watches, key, hold.attempt, hold.to_json(), waiting)

    async def _withdraw(self, hold: Hold, place: Place) -> None:
        """Leave the line; and release what was handed to us just before."""
        await place.leave()
        if place.hold is None:
            return
        while not self._session.ended.is_set():
            try:
                await self._discard(hold)
                return
            except Unavailable:
                with contextlib.suppress(Unavailable, AuthorityLost):  # the loop looks whether it is over
                    await self._session.wait_connected(self._session.identity.timeout_seconds)
            except AuthorityLost:
                return

    async def _discard(self, hold: Hold) -> None:
        """Of a hold that was made to wait with; it may be held by now, but nobody uses it."""
        try:
            await self._session.delete(self._session.paths.hold(hold.nonce), HELD_AT_ONCE)
        except Rejected as refused:
            if refused.reason is Reason.VERSION:
                await self._releases.end(hold.nonce, hold.modes, version=HELD_AFTER_WAITING)

    async def _look_behind(self, taken: Taken, place: Place) -> None:
        """Find the heir; and have what was handed to us end with our session."""
        behind = await place.leave()
        nonce, paths = taken.hold.nonce, self._session.paths
        with contextlib.suppress(EngineError):  # then there is no heir, and the next ones see to the rest
            if behind and Mode.SHARED not in taken.hold.modes.values():
                node = await self._session.get(paths.hold(prefix_of(behind)))
                data = once_held(node.data) if node is not None else None
                if data is not None and nonce in self._tasks:
                    self.heirs[nonce] = Heir(place.key, prefix_of(behind), data)
            for key in taken.handed:
                await self._session.commit(*adopting(paths, nonce, key))

    async def _at_head(self, hold: Hold, place: Place, latest: list[LockRefused]) -> Taken:
        """Wait to be first in the line, then for the lock. Raises `_Elsewhere` when another key
        refused."""
        key, mode = place.key, hold.modes[place.key]
        mine = hold.nonce if place.hold is not None else ""
        await place.first()
        with self._watches.on(self._session.paths.lock(key)) as bell:
            while True:
                try:
                    await steadily(self._session, lambda: self._sight.look(key, mode, mine=mine, bell=bell))
                except Received as received:
                    return Taken(hold, received.zxid, HELD_AFTER_WAITING, received.handed)
                except AlreadyHeld:
                    raise
                except LockRefused as refused:
                    latest.append(refused)
                    await bell.heard()
                    if refused.mode is Mode.SHARED or place.hold is not None:
                        continue  # one of perhaps many sharers has left; or we have been handed it
                try:
                    taken = await self._attempt(hold, place)
                    if place.alone:
                        self._sight.uncontended((key,))
                    return taken
                except AlreadyHeld:
                    raise
                except LockRefused as refused:
                    latest.append(refused)
                    if refused.key != key:
                        raise _Elsewhere from refused
                except Unavailable:
                    await self._session.wait_connected(self._session.identity.timeout_seconds)


class _Elsewhere(Exception):
    """Another key stands in the way now."""
