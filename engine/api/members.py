"""`/v1/members`: the engines in the cluster now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from falcon.asgi import Request, Response

from engine.api.dependencies import Cluster
from engine.api.fields import Fields
from engine.api.http import answer, next_link, page_of, take_paging
from engine.api.staleness import mark_staleness
from engine.coordination.membership import Member
from engine.plugin import EngineId


def member_document(member: Member, owned: Mapping[EngineId, int]) -> dict[str, Any]:
    return {
        "engine": member.engine,
        "state": member.state,
        "address": member.address,
        "pid": member.pid,
        "version": member.version,
        "started": member.started,
        "weight": member.weight,
        "algorithm": member.algorithm,
        "partitioner": member.partitioner,
        "db": member.db,
        "shards_owned": owned.get(member.engine, 0),
        "session": f"{member.session:#x}",
    }


class Members:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def on_get(self, request: Request, response: Response) -> None:
        with Fields(request.params) as fields:
            limit, marker = take_paging(fields)
        snapshot = self._cluster.snapshot
        owned = snapshot.owned()
        page, following = page_of(snapshot.members, lambda member: member.engine, limit=limit, marker=marker)
        documents = [member_document(member, owned) for member in page]
        answer(
            response,
            {
                "members": documents,
                "next": next_link(request, following),
                **mark_staleness(self._cluster, response),
            },
        )
