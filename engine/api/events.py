"""`/v1/events`: what happened, newest first; with `after`, what is newer, oldest first."""

from __future__ import annotations

from typing import Any

from falcon.asgi import Request, Response

from engine.api.fields import Fields, integer, text
from engine.api.http import DEFAULT_PAGE, MAX_PAGE, answer, next_link
from engine.db import events
from engine.db.database import Database
from engine.db.events import Event
from engine.plugin import HostId

_event_id = integer(0, 2**63 - 1)


def event_document(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
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
            marker = fields.take("marker", _event_id, default=None)
            after = fields.take("after", _event_id, default=None)
            host = fields.take("host", text, default=None)
            kind = fields.take("kind", text, default=None)
        async with self._database.reading() as connection:
            found = await events.page(
                connection,
                limit=limit + 1,
                # With `after` the pages go upward, so that a marker takes its place.
                before=marker if after is None else None,
                after=after if marker is None or after is None else marker,
                host_id=None if host is None else HostId(host),
                kind=kind,
            )
        page = found[:limit]
        following = str(page[-1].id) if len(found) > limit else None
        documents = [event_document(event) for event in page]
        answer(response, {"events": documents, "next": next_link(request, following)})
