"""Cluster-wide locks: exclusive and shared, many keys at once, each holder with a greater token.

Two lifetimes. A lock of a session ends with its engine, and its scope is cancelled when the authority
ends; a lock of a command survives its engine, and is released by whoever ends the command, or swept
when the command is no more. Both are holds (`holds.py`) taken and released in one transaction each
(`transactions.py`), so nothing is ever half taken, half released, or left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Set
from datetime import datetime

from engine.clock import utcnow
from engine.coordination.operations import MalformedNode
from engine.coordination.session import Session
from engine.coordination.tokens import token_of
from engine.errors import AuthorityLost, EngineError, NotFound, Unavailable
from engine.locks.commits import GroupCommit
from engine.locks.fence import Fence
from engine.locks.holds import AlreadyHeld, Hold, HoldView, LockRefused, nonce_of_command, once_held
from engine.locks.keys import FOREVER, Forever, Key, Mode, Wanted
from engine.locks.line import in_order
from engine.locks.release import Releases
from engine.locks.taking import Takings, Wait
from engine.locks.verbs import Lock
from engine.locks.watches import Watches, steadily

__all__ = [
    "FOREVER",
    "AlreadyHeld",
    "Fence",
    "Forever",
    "HoldView",
    "Key",
    "Lock",
    "LockRefused",
    "Locks",
    "Mode",
    "Wait",
]

LOG = logging.getLogger(__name__)

_LEAVE_SECONDS = 1.0
_AGAIN_SECONDS = 0.2


class Locks:
    """The locks as one process sees them, over its open session. `engine` names it to those refused;
    `incarnation` is the number of the tree, as the database counts."""

    def __init__(
        self,
        session: Session,
        *,
        engine: str,
        incarnation: int,
        now: Callable[[], datetime] = utcnow,
    ) -> None:
        self._session = session
        self._engine = engine
        self._incarnation = incarnation
        self._now = now
        self._commits = GroupCommit(session)
        self._releases = Releases(session, self._commits)
        self._watches = Watches(session)
        self._fences: dict[str, Fence] = {}
        self._tasks: dict[str, asyncio.Task[object] | None] = {}
        self._takings = Takings(
            session,
            self._commits,
            self._releases,
            self._watches,
            incarnation=incarnation,
            tasks=self._tasks,
        )
        self._guarding: asyncio.Task[None] | None = None
        session.on_end(self._on_end)

    # --- locks of this session --------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def acquire(
        self,
        *,
        exclusive: Set[Key] = frozenset(),
        shared: Set[Key] = frozenset(),
        wait: Wait = None,
        reason: str = "",
        user: str = "",
    ) -> AsyncIterator[Fence]:
        """Hold all keys while the body runs. The body is cancelled, and `AuthorityLost` raised, when the
        authority ends or the hold is removed by force.

        Raises `LockRefused` (at once, or when `wait` has passed), `InvalidInput`, `Unavailable`,
        `AuthorityLost` where this session has no authority.
        """
        fence = await self.take(Wanted.of(exclusive, shared), wait=wait, reason=reason, user=user)
        try:
            with fence.scope():
                yield fence
        finally:
            await self.give_back(fence)

    def lock(
        self,
        *,
        exclusive: Set[Key] = frozenset(),
        shared: Set[Key] = frozenset(),
        reason: str = "",
        user: str = "",
    ) -> Lock:
        """The same with kazoo's verbs."""
        return Lock(self, Wanted.of(exclusive, shared), reason=reason, user=user)

    async def take(self, wanted: Wanted, *, wait: Wait, reason: str, user: str) -> Fence:
        """Take and keep, until `give_back`. Cancels nobody: watch `fence.lost`, or use `acquire`."""
        self._session.authority.check()
        if self._guarding is None:
            await self._guard()
        hold = Hold.of_session(wanted, engine=self._engine, user=user, since=self._now(), reason=reason)
        taken = await self._takings.take(hold, wait)
        nonce = taken.hold.nonce
        fence = Fence(
            self._session.authority,
            self._session.paths.hold(nonce),
            nonce,
            hold.modes,
            token_of(self._incarnation, taken.zxid),
            version=taken.version,
            handed=taken.handed,
        )
        self._fences[nonce] = fence
        self._tasks[nonce] = asyncio.current_task()
        if self._session.ended.is_set():
            fence.end("the session is over")
        return fence

    async def give_back(self, fence: Fence) -> None:
        """Release. Goes on in the background when cancelled here, or while disconnected."""
        self._fences.pop(fence.nonce, None)
        self._tasks.pop(fence.nonce, None)
        heir = self._takings.heirs.pop(fence.nonce, None)
        removed = fence.lost.is_set()
        fence.end("it was released")
        if removed or self._session.ended.is_set():
            return

        def late(error: BaseException | None) -> None:
            if error is not None:
                self._insist(fence)

        outcome = self._releases.submit(fence, heir, late)
        try:
            async with asyncio.timeout(_LEAVE_SECONDS):
                await outcome
        except TimeoutError:
            return
        except asyncio.CancelledError:
            if not outcome.cancelled() and outcome.exception() is not None:
                self._insist(fence)
            raise
        except EngineError:
            await asyncio.wait({self._insist(fence)}, timeout=_LEAVE_SECONDS)

    # --- locks of commands ------------------------------------------------------------------------

    async def take_for_command(
        self,
        command_id: str,
        *,
        exclusive: Set[Key] = frozenset(),
        shared: Set[Key] = frozenset(),
        user: str,
        reason: str,
        wait: Wait = None,
    ) -> int:
        """Take the locks of a command; they stay until they are released. Returns their token.

        A command takes its locks once in its life. Raises `LockRefused`, `AlreadyHeld` when it has
        them, `InvalidInput`, `Unavailable`.
        """
        hold = Hold.of_command(
            command_id,
            Wanted.of(exclusive, shared),
            engine=self._engine,
            user=user,
            since=self._now(),
            reason=reason,
        )
        return token_of(self._incarnation, (await self._takings.take(hold, wait)).zxid)

    async def release_command(self, command_id: str) -> None:
        """Release what a command holds; nothing, if it holds nothing. Raises `Unavailable`."""
        held = await self.command_hold(command_id)
        if held is not None:
            await self._releases.end(held.nonce, held.modes, version=held.version)

    async def command_token(self, command_id: str) -> int | None:
        """The token of the command's locks, if it holds any now."""
        held = await self.command_hold(command_id)
        return held.token if held is not None else None

    async def command_hold(self, command_id: str) -> HoldView | None:
        """What the command holds now; children ask it whether it `covers` what they need."""
        return await self.hold(nonce_of_command(command_id))

    # --- looking, and the operator's hand ---------------------------------------------------------

    async def hold(self, nonce: str) -> HoldView | None:
        node = await self._session.get(self._session.paths.hold(nonce))
        if node is None or once_held(node.data) is not None:
            return None
        return HoldView.from_node(nonce, node, incarnation=self._incarnation)

    async def holders(self) -> list[HoldView]:
        """Every hold in the cluster, by its nonce."""
        try:
            names = await self._session.children(self._session.paths.holds)
        except NotFound:
            return []
        nodes = await self._session.get_many([self._session.paths.hold(name) for name in names])
        found = []
        for name, node in zip(names, nodes, strict=True):
            if node is None or once_held(node.data) is not None:
                continue
            try:
                found.append(HoldView.from_node(name, node, incarnation=self._incarnation))
            except MalformedNode as error:
                LOG.warning("hold=%s: %s", name, error)
        return found

    async def waiters(self, key: Key) -> list[str]:
        """The engines that wait for `key`, in the order of their line."""
        line = self._session.paths.line(key)
        try:
            names = in_order(await self._session.children(line))
        except NotFound:
            return []
        nodes = await self._session.get_many([f"{line}/{name}" for name in names])
        return [str(node.json().get("engine")) for node in nodes if node is not None]

    async def release_by_force(self, held: HoldView) -> bool:
        """Remove somebody else's hold; False when it was gone. The nodes go at once, and with them
        every `guard`; the engine that holds it is told and cancels what runs under it.

        A command's hold also needs its row's `lock_token` set to NULL *before* this.
        """
        return await self._releases.end(held.nonce, held.modes, version=held.version, by_force=True)

    # --- inside -----------------------------------------------------------------------------------

    def _insist(self, fence: Fence) -> asyncio.Task[None]:
        return self._session.background(self._release(fence), name=f"release {fence.nonce}")

    async def _release(self, fence: Fence) -> None:
        """Until it is certain: a hold that stayed behind in a living session would stay for good."""

        def release() -> Awaitable[bool]:
            return self._releases.end(fence.nonce, fence.modes, version=fence.version, handed=fence.handed)

        while not self._session.ended.is_set():
            try:
                await steadily(self._session, release)
                return
            except Unavailable:
                await asyncio.sleep(_AGAIN_SECONDS)
            except AuthorityLost:
                return  # the session is over, and the hold with it

    async def _guard(self) -> None:
        """Hear of holds that are removed by force: that sets the data of /holds, which we watch."""
        await self._session.ensure(self._session.paths.holds)
        await self._session.get(self._session.paths.holds, watch=True)
        if self._guarding is None:
            self._guarding = self._session.background(self._guard_fences(), name="lock-fences")

    async def _guard_fences(self) -> None:
        holds = self._session.paths.holds
        with contextlib.suppress(AuthorityLost), self._watches.on(holds) as bell:
            while True:
                await bell.heard()
                with contextlib.suppress(Unavailable):  # the reconnect rings again
                    await self._session.get(holds, watch=True)
                    await self._verify()

    async def _verify(self) -> None:
        fences = list(self._fences.values())
        nodes = await self._session.get_many([fence.guard().path for fence in fences])
        for fence, node in zip(fences, nodes, strict=True):
            if node is None and fence.nonce in self._fences:
                LOG.warning("the lock on %s was removed by force", ",".join(fence.modes))
                fence.end("it was released by force")

    def _on_end(self, why: str) -> None:
        for fence in self._fences.values():
            fence.end(why)
