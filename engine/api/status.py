"""`/v1/status`: the cluster at one glance, for `engine status` and the live display."""

from __future__ import annotations

from falcon.asgi import Request, Response

from engine.api.dependencies import Dependencies
from engine.api.events import event_document
from engine.api.fields import Fields
from engine.api.http import answer
from engine.api.members import member_document
from engine.api.singletons import singleton_document, singleton_names
from engine.api.staleness import mark_staleness
from engine.db import events

LATEST_EVENTS = 10


class Status:
    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies

    async def on_get(self, request: Request, response: Response) -> None:
        with Fields(request.params):
            pass
        snapshot = self._dependencies.cluster.snapshot
        hosts = await self._dependencies.hosts.count_by_status()
        async with self._dependencies.database.reading() as connection:
            latest = await events.page(connection, limit=LATEST_EVENTS)
        owned = snapshot.owned()
        answer(
            response,
            {
                "members": [member_document(member, owned) for member in snapshot.members],
                "shards": {"total": self._dependencies.shards, "owned": owned.total()},
                "hosts": {str(status): count for status, count in sorted(hosts.items())},
                "singletons": [singleton_document(snapshot, name) for name in singleton_names(snapshot)],
                "events": [event_document(event) for event in latest],
                **mark_staleness(self._dependencies.cluster, response),
            },
        )
