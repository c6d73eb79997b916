"""`/v1/members`: the engines in the cluster now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from falcon.asgi import Request, Response

from engine.api.dependencies import Cluster
from engine.api.fields import Fields, several
from engine.api.http import answer, next_link, take_paging
from engine.api.staleness import mark_staleness
from engine.arguments import choice
from engine.coordination.membership import Member
from engine.errors import InvalidInput
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


SORT_KEYS = ("engine", "state", "started", "shards_owned")


class Members:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def on_get(self, request: Request, response: Response) -> None:
        with Fields(request.params) as fields:
            limit, marker = take_paging(fields)
            states = fields.take("state", several(choice("up", "draining")), default=())
            sort = fields.take(
                "sort", choice(*SORT_KEYS, *(f"-{key}" for key in SORT_KEYS)), default="engine"
            )
        snapshot = self._cluster.snapshot
        owned = snapshot.owned()
        found = [member_document(m, owned) for m in snapshot.members if not states or m.state in states]
        found.sort(
            key=lambda each: (each[sort.removeprefix("-")], each["engine"]), reverse=sort.startswith("-")
        )
        begin = _behind(found, marker, in_order=sort == "engine")
        documents = found[begin : begin + limit]
        following = documents[-1]["engine"] if len(found) > begin + limit else None
        answer(
            response,
            {
                "members": documents,
                "next": next_link(request, following),
                **mark_staleness(self._cluster, response),
            },
        )


def _behind(members: Sequence[Mapping[str, Any]], marker: str | None, *, in_order: bool) -> int:
    """Where the members after the one called `marker` begin; `in_order`: of their names."""
    names = [member["engine"] for member in members]
    if marker is None:
        return 0
    if in_order:  # one that has gone meanwhile still marks its place
        return sum(name <= marker for name in names)
    if marker not in names:
        wrong = "is in this list no more: begin again"
        raise InvalidInput(f"engine {marker[:64]!r} {wrong}", fields={"marker": wrong})
    return names.index(marker) + 1
