"""Ends holds. One transaction deletes a hold with all its keys, so a release that comes too late fails as
a whole and hurts no later holder; it may therefore be repeated until it is certain.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping

from engine.coordination.operations import Reason, Rejected, SetData
from engine.coordination.session import Session
from engine.errors import OutcomeUnknown
from engine.locks.commits import Abandoned, GroupCommit
from engine.locks.fence import Fence
from engine.locks.keys import Key, Mode
from engine.locks.transactions import HELD_AT_ONCE, Heir, Step, abandoning, handing, releasing


class Releases:
    def __init__(self, session: Session, commits: GroupCommit) -> None:
        self._session = session
        self._commits = commits

    def submit(
        self, fence: Fence, heir: Heir | None, abandoned: Abandoned | None = None
    ) -> asyncio.Future[int]:
        """The first try of `end`, which in most cases is the only one needed. An heir makes it fail, who
        is no longer there."""
        paths = self._session.paths
        steps = releasing(paths, fence.nonce, fence.modes, version=fence.version, handed=fence.handed)
        operations = [step.operation for step in steps]
        if heir is not None:
            operations += handing(paths, heir)
        return self._commits.submit(operations, abandoned)

    async def end(
        self,
        nonce: str,
        modes: Mapping[Key, Mode],
        *,
        version: int = HELD_AT_ONCE,
        handed: Collection[Key] = (),
        by_force: bool = False,
    ) -> bool:
        """Delete the hold, which has `version`, and its keys; False when it was gone already.

        `handed` are keys that are thought to have been handed to it; wrong guesses cost a round trip.
        `by_force` tells every engine to look at its holds. Raises `Unavailable` (perhaps nothing was
        done: ask again), `AuthorityLost` when the session is over.
        """
        paths = self._session.paths
        others, missing, received, guessed = set[Key](), set[Key](), set(handed), set[Key]()
        shared = {key for key, mode in modes.items() if mode is Mode.SHARED}
        unsure = False
        while True:
            steps = releasing(
                paths, nonce, modes, version=version, others=others, missing=missing, handed=received
            )
            if by_force:
                steps.append(Step(SetData(paths.holds, nonce.encode())))
            try:
                await self._commits.submit([step.operation for step in steps])
                ended = True
            except Rejected as refused:
                key = steps[refused.index].key
                if key is None and refused.reason is Reason.ABSENT:
                    ended = unsure
                elif key is not None and refused.reason is Reason.NOT_EMPTY:
                    others.add(key)
                    continue
                elif key is not None and refused.reason is Reason.ABSENT:
                    (guessed if key in received - guessed else missing).add(key)
                    received.discard(key)
                    continue
                elif key is not None and refused.reason is Reason.VERSION and key not in guessed | shared:
                    guessed.add(key)
                    received.add(key)
                    continue
                else:
                    raise
            except OutcomeUnknown:
                unsure = True
                await self._session.wait_connected(self._session.identity.timeout_seconds)
                await self._session.sync(paths.holds)
                continue
            await self._clear(others)
            return ended

    async def _clear(self, keys: Collection[Key]) -> None:
        """The last of several who leave at once finds the container empty: each looks after it has left."""
        for key in keys:
            # Somebody has it, or has taken it anew; or somebody else has cleared it.
            with contextlib.suppress(Rejected):
                await self._session.commit(abandoning(self._session.paths, key))
