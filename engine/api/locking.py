"""The locks as an API process takes them for commands: over whatever session it has just now."""

from __future__ import annotations

from collections.abc import Callable

from engine.commands.edits import NothingIsLocked
from engine.coordination.session import Session
from engine.db.database import Database
from engine.db.shards import incarnation_number
from engine.locks.lock import Locks


class PresentLocks:
    """`await locks()` gives them; made anew with each session. `name` tells the refused who holds."""

    def __init__(self, session: Callable[[], Session], database: Database, *, name: str) -> None:
        self._session = session
        self._database = database
        self._name = name
        self._made: tuple[Session, Locks] | None = None

    async def __call__(self) -> Locks:
        """Raises `Unavailable` while there is no session, or before the first engine has been here."""
        session = self._session()
        if self._made is None or self._made[0] is not session:
            node = await session.get(session.paths.incarnation)
            id = node.json().get("id") if node is not None else None
            number = await incarnation_number(self._database, id) if id else None
            if number is None:
                raise NothingIsLocked("no engine has been in this ZooKeeper tree yet: nothing can be locked")
            self._made = session, Locks(session, engine=self._name, incarnation=number)
        return self._made[1]
