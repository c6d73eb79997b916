"""`/v1/singletons`: each duty of which there is one in the cluster, who leads, and who waits in line."""

from __future__ import annotations

from typing import Any

from falcon.asgi import Request, Response

from engine.api.dependencies import Cluster
from engine.api.fields import Fields
from engine.api.http import answer, next_link, page_of, take_paging
from engine.api.snapshot import Candidate
from engine.api.staleness import mark_staleness


def singleton_document(name: str, line: tuple[Candidate, ...]) -> dict[str, Any]:
    return {
        "name": name,
        "leader": line[0].engine if line else None,
        "since": line[0].since if line else None,
        "candidates": [candidate.engine for candidate in line],
    }


class Singletons:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def on_get(self, request: Request, response: Response) -> None:
        with Fields(request.params) as fields:
            limit, marker = take_paging(fields)
        singletons = self._cluster.snapshot.singletons
        page, following = page_of(sorted(singletons), str, limit=limit, marker=marker)
        documents = [singleton_document(name, singletons[name]) for name in page]
        answer(
            response,
            {
                "singletons": documents,
                "next": next_link(request, following),
                **mark_staleness(self._cluster, response),
            },
        )
