"""Where plugins ask for commands: `engine.plugin.CommandDesk` over the submission of the present session.

One desk a process, one counter a plugin: sessions come and go under it, and between two of them
whoever asks is told `Unavailable`. What is asked for bears the plugin's name as its user.
"""

from __future__ import annotations

from datetime import datetime

from engine.commands import store
from engine.commands.records import History
from engine.commands.submission import Submission
from engine.db import events
from engine.errors import Unavailable
from engine.plugin import ChildOutcome, Json, Leadership


class Desk:
    """`submission` is set while there is a session."""

    def __init__(self) -> None:
        self.submission: Submission | None = None

    def of(self, plugin: str) -> Counter:
        """For one plugin; `plugin` is its kind and name ('singleton:ha_restart')."""
        return Counter(self, plugin)

    def present(self) -> Submission:
        if self.submission is None:
            raise Unavailable("this engine has no session at the moment: it asks for no commands")
        return self.submission


class Counter:
    """See `engine.plugin.CommandDesk`."""

    def __init__(self, desk: Desk, user: str) -> None:
        self._desk = desk
        self._user = user

    async def submit(
        self,
        command: str,
        arguments: Json,
        *,
        key: str | None = None,
        lock_wait_seconds: float | None = None,
    ) -> str:
        submitted = await self._desk.present().submit(
            command, arguments, user=self._user, key=key, lock_wait_seconds=lock_wait_seconds
        )
        return submitted.command.id

    async def asked_for(self, key: str) -> str | None:
        known = await self._desk.present().store.known_key(self._user, key)
        return None if known is None else known[0]

    async def outcome(self, command_id: str, *, wait_seconds: float = 0.0) -> ChildOutcome | None:
        history = await self._desk.present().outcome(command_id, wait_seconds=wait_seconds)
        return _outcome(history) if history.command.ended else None

    async def prune(self, *, ended_before: datetime, limit: int, leadership: Leadership) -> int:
        database = self._desk.present().store.database
        name = self._user.rpartition(":")[2]
        async with events.leading(database, name, leadership) as connection:
            return await store.prune(connection, ended_before=ended_before, limit=limit)


def _outcome(history: History) -> ChildOutcome:
    record = history.command
    return ChildOutcome(
        id=record.id,
        command=record.type,
        arguments=record.arguments,
        state=str(record.state),
        error=record.error,
    )
