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
from engine.locks.keys import Key, Mode
from engine.locks.transactions import Step, abandoning, releasing


class Releases:
    def __init__(self, session: Session, commits: GroupCommit) -> None:
        self._session = session
        self._commits = commits

    def submit(
        self, nonce: str, modes: Mapping[Key, Mode], abandoned: Abandoned | None = None
    ) -> asyncio.Future[int]:
        """The first try of `end`, which in most cases is the only one needed."""
        steps = releasing(self._session.paths, nonce, modes)
        return self._commits.submit([step.operation for step in steps], abandoned)

    async def end(
        self,
        nonce: str,
        modes: Mapping[Key, Mode],
        *,
        shared_with: Collection[Key] = (),
        by_force: bool = False,
    ) -> bool:
        """Delete the hold and its keys; False when it was gone already.

        `shared_with` are keys that others are thought to hold besides; wrong guesses cost a round trip.
        `by_force` tells every engine to look at its holds. Raises `Unavailable` (perhaps nothing was
        done: ask again), `AuthorityLost` when the session is over.
        """
        paths = self._session.paths
        others, missing = set(shared_with), set[Key]()
        unsure = False
        while True:
            steps = releasing(paths, nonce, modes, others=others, missing=missing)
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
                    missing.add(key)
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
