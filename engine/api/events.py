"""`/v1/events`: what happened, newest first; with `after`, what follows a cursor, oldest first.

A client that follows passes the `cursor` of the last event it has seen: it misses none.
"""

from __future__ import annotations

from typing import Any

from falcon.asgi import Request, Response

from engine.api.fields import Fields, integer, text
from engine.api.http import DEFAULT_PAGE, MAX_PAGE, answer, next_link
from engine.db import events
from engine.db.database import Database
from engine.db.events import Cursor, Event
from engine.plugin import HostId

_event_id = integer(0, 2**63 - 1)


def event_document(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "cursor": str(event.cursor),
        "at": event.at,
        "kind": event.kind,
        "message": event.message,
        "engine": event.engine,
        "host_id": event.host_id,
        "data": event.data,
    }


class Events:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def on_get(self, request: Request, response: Response) -> None:
        with Fields(request.params) as fields:
            limit = fields.take("limit", integer(1, MAX_PAGE), default=DEFAULT_PAGE)
            after = fields.take("after", Cursor.parse, default=None)
            # With `after` the pages go upward, so that a marker takes its place.
            marker = fields.take("marker", _event_id if after is None else Cursor.parse, default=None)
            host = fields.take("host", text, default=None)
            kind = fields.take("kind", text, default=None)
        async with self._database.reading() as connection:
            found = await events.page(
                connection,
                limit=limit + 1,
                before=marker if isinstance(marker, int) else None,
                after=marker if isinstance(marker, Cursor) else after,
                host_id=None if host is None else HostId(host),
                kind=kind,
            )
        page = found[:limit]
        following = None
        if len(found) > limit:
            following = str(page[-1].id if after is None else page[-1].cursor)
        documents = [event_document(event) for event in page]
        answer(response, {"events": documents, "next": next_link(request, following)})
