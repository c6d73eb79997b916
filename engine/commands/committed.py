"""A command as it was last committed, and the one way to change it.

Every move is written through the group commit, under the shard's epoch and the row guard. Where the
database gives no answer the rows are read again before anything else is done, so that `history` is
never a guess.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from engine.commands import store
from engine.commands.patience import Patience
from engine.commands.records import History
from engine.commands.services import Services, ShardClaim
from engine.commands.transactions import MakeContext, Transaction, Written
from engine.db.errors import Duplicate
from engine.errors import AuthorityLost, Fenced, Unavailable

LOG = logging.getLogger(__name__)

Moves = Callable[[Transaction], Awaitable[None] | None]
T = TypeVar("T")
_AGAIN_SECONDS = 0.02


class Left(Exception):
    """The command is no longer this run's: it has travelled, waits as a row, or is handed back."""


class Committed:
    """`write` and `answered` raise `AuthorityLost`, `Fenced`, `Left`."""

    def __init__(
        self,
        services: Services,
        claim: ShardClaim,
        history: History,
        *,
        patience: Patience,
        context: MakeContext,
    ) -> None:
        self.claim = claim
        self.history = history
        self._services = services
        self._patience = patience
        self._context = context
        self._orphaned = False

    @property
    def id(self) -> str:
        return self.history.command.id

    def cancel_requested(self) -> None:
        """Somebody wants it cancelled."""
        if not self.history.command.cancel_requested:
            self._replace(cancel_requested=True)
            self._patience.hear()

    def told_progress(self, percent: int, message: str) -> None:
        """It stands in the row now; the next write must not take it back."""
        self._replace(percent=percent, message=message)

    def _replace(self, **changes: object) -> None:
        command = dataclasses.replace(self.history.command, **changes)  # type: ignore[arg-type]
        self.history = dataclasses.replace(self.history, command=command)

    async def write(self, moves: Moves) -> None:
        """One transaction, until the database has answered for it. Raises what `moves` raises."""
        failures = 0
        while True:
            before = self.history
            try:
                written = await self._commit(moves)
            except Fenced:
                await self._meet_fence()
                return
            except Duplicate:
                # A commit of which nothing was heard may come after the look for it.
                if (fresh := await self.read()) == self.history:
                    raise
                self.history = fresh
                return
            except Unavailable as error:
                failures += 1
                LOG.warning("command=%s: its rows cannot be written: %s", self.id, error)
                await asyncio.sleep(self._patience.retry_seconds(failures))
                if await self._written_after_all(before, error):
                    return
            else:
                await self._heed(written)
                return

    async def _commit(self, moves: Moves) -> Written:
        async def write(connection: store.Connection) -> Written:
            tx = Transaction(connection, self._services, self.history, self._context)
            if (done := moves(tx)) is not None:
                await done
            return tx.finish()

        await self.permitted()
        return await self._services.ledger.commit(self.claim.shard, self.claim.epoch, write)

    async def _heed(self, written: Written) -> None:
        cancelled = self.history.command.cancel_requested
        self.history = written.history
        for shard in written.told:
            await self._services.bump(shard)
        if cancelled:
            self.cancel_requested()
        if self.history.command.epoch is None:
            raise Left

    async def _written_after_all(self, before: History, error: Unavailable) -> bool:
        """Whether the commit of which nothing was heard is there: then plan again."""
        fresh = await self.read()
        if fresh.command.epoch != self.claim.epoch:
            raise Left from error
        if fresh.command.cancel_requested:
            self.cancel_requested()
        if fresh in (self.history, before):
            return False
        self.history = fresh
        return True

    async def _meet_fence(self) -> None:
        """Was it claimed by somebody else, or were its locks released under it?"""
        fresh = await self.read()
        if fresh.command.epoch != self.claim.epoch or fresh.command.shard != self.claim.shard:
            raise Left
        if fresh != self.history:
            self.history = fresh
            return
        if self._orphaned or fresh.command.root_id == self.id:
            raise Fenced(f"command {self.id}: its shard has another owner")
        self._orphaned = True
        await self.write(lambda tx: tx.orphan())

    async def permitted(self) -> None:
        """Return when acting is allowed: a connection to ZooKeeper that is down for a moment is waited for,
        since whatever is known of a step would be lost with this run. Raises `AuthorityLost`."""
        while True:
            try:
                self.claim.authority.check()
            except AuthorityLost:
                if self.claim.authority.remaining_seconds() <= 0:
                    raise
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                return

    async def read(self) -> History:
        """The rows as they are."""
        return await self.answered(lambda: self._services.store.history(self.id))

    async def answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer."""
        failures = 0
        while True:
            await self.permitted()
            try:
                return await ask()
            except Unavailable as error:
                failures += 1
                LOG.warning("command=%s: no answer: %s", self.id, error)
                await asyncio.sleep(self._patience.retry_seconds(failures))
