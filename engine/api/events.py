"""`/v1/events`: what happened, newest first; with `after`, what follows a cursor, oldest first.

A client that follows passes the `cursor` of the last event it has seen: it misses none. With
`Accept: text/event-stream` it is told as it happens (server-sent events): each message's id is such a
cursor, so that `Last-Event-ID` goes on where a stream ended, at any API process. Source of the form:
https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from falcon.asgi import Request, Response, SSEvent

from engine.api.feed import Batch, EventFeed, Filter
from engine.api.fields import Fields, integer, several, text
from engine.api.http import answer, next_link, take_limit, to_json
from engine.db import events
from engine.db.database import Database
from engine.db.events import Cursor, Event
from engine.errors import InvalidInput
from engine.plugin import HostId

RETRY_MILLISECONDS = 1000
"""After which a browser comes back when its stream has ended."""

_STREAM = "text/event-stream"

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
    def __init__(self, database: Database, feed: EventFeed) -> None:
        self._database = database
        self._feed = feed

    async def on_get(self, request: Request, response: Response) -> None:
        if request.client_prefers(("application/json", _STREAM)) == _STREAM:
            await self._stream(request, response)
        else:
            await self._page(request, response)

    async def _page(self, request: Request, response: Response) -> None:
        with Fields(request.params) as fields:
            limit = take_limit(fields)
            after = fields.take("after", Cursor.parse, default=None)
            # With `after` the pages go upward, so that a marker takes its place.
            marker = fields.take("marker", _event_id if after is None else Cursor.parse, default=None)
            host = fields.take("host", text, default=None)
            kinds = fields.take("kind", several(text), default=())
        async with self._database.reading() as connection:
            found = await events.page(
                connection,
                limit=limit + 1,
                before=marker if isinstance(marker, int) else None,
                after=marker if isinstance(marker, Cursor) else after,
                host_id=None if host is None else HostId(host),
                kinds=kinds,
            )
            cursor = await events.head(connection)
        page = found[:limit]
        following = None
        if len(found) > limit:
            following = str(page[-1].id if after is None else page[-1].cursor)
        documents = [event_document(event) for event in page]
        link = next_link(request, following)
        answer(response, {"events": documents, "next": link, "cursor": str(cursor)})

    async def _stream(self, request: Request, response: Response) -> None:
        with Fields(request.params) as fields:
            after = fields.take("after", Cursor.parse, default=None)
            host = fields.take("host", text, default=None)
            kinds = fields.take("kind", several(text), default=())
        wanted = Filter(host_id=None if host is None else HostId(host), kinds=kinds)
        batches = self._feed.stream(_last_seen(request) or after, wanted)
        # What refuses a stream is answered as an error, before the answer has begun.
        first = await anext(batches)
        response.set_header("Cache-Control", "no-store")
        response.set_header("X-Accel-Buffering", "no")  # a proxy that gathers would hold events back
        response.sse = _messages(first, batches)


async def _messages(first: Batch, batches: AsyncIterator[Batch]) -> AsyncIterator[SSEvent]:
    """An id without data is no event for a client, but it remembers it: what was looked at in vain,
    or nobody has seen yet, is not looked at again when it comes back."""
    yield SSEvent(retry=RETRY_MILLISECONDS)
    batch = first
    while True:
        for event in batch.events:
            yield SSEvent(event_id=str(event.cursor), data=to_json(event_document(event)))
        if not batch.events:
            yield SSEvent(event_id=str(batch.cursor), comment="nothing new")
        try:
            batch = await anext(batches)
        except StopAsyncIteration:
            return


def _last_seen(request: Request) -> Cursor | None:
    given = request.get_header("Last-Event-ID")
    try:
        return Cursor.parse(given) if given else None
    except ValueError as error:
        raise InvalidInput(f"Last-Event-ID {error}", fields={"Last-Event-ID": str(error)}) from None
