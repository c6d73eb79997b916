"""`/v1/shards`: who owns which shard, and under which epoch.

Who owns a shard now is in the snapshot (the ephemeral owner node), the epoch in the database.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from falcon.asgi import Request, Response

from engine.api.dependencies import Dependencies
from engine.api.fields import Fields, text
from engine.api.http import answer, next_link, take_limit
from engine.api.snapshot import ClusterSnapshot
from engine.api.staleness import mark_staleness
from engine.db.shards import epochs
from engine.errors import NotFound
from engine.plugin import ShardId


def shard_document(
    shard: ShardId, snapshot: ClusterSnapshot, epoch_of: Mapping[ShardId, int]
) -> dict[str, Any]:
    """A shard without a node yet has never been owned."""
    state = snapshot.shards.get(shard)
    return {
        "shard": shard,
        "owner": state.owner if state else None,
        "epoch": epoch_of.get(shard),
        "since": state.since if state else None,
        "last_owner": state.last_owner if state else None,
        "version": state.version if state else None,
    }


class Shards:
    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies

    async def on_get(self, request: Request, response: Response) -> None:
        with Fields(request.params) as fields:
            limit = take_limit(fields)
            after = fields.take("marker", _number, default=-1)
            owner = fields.take("owner", text, default=None)
        cluster = self._dependencies.cluster
        snapshot = cluster.snapshot
        numbers = [ShardId(number) for number in range(after + 1, self._dependencies.shards)]
        if owner is not None:
            numbers = [shard for shard in numbers if snapshot.owner(shard) == owner]
        page = numbers[:limit]
        epoch_of = await epochs(self._dependencies.database, page)
        following = str(page[-1]) if len(numbers) > limit else None
        answer(
            response,
            {
                "shards": [shard_document(shard, snapshot, epoch_of) for shard in page],
                "next": next_link(request, following),
                **mark_staleness(cluster, response),
            },
        )


class Shard:
    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies

    async def on_get(self, request: Request, response: Response, shard: str) -> None:
        with Fields(request.params):
            pass
        known = self._dependencies.shards
        if not (shard.isascii() and shard.isdigit() and len(shard) < 10 and int(shard) < known):
            raise NotFound(f"no shard {shard[:20]!r}; there are 0 to {known - 1}")
        number = ShardId(int(shard))
        cluster = self._dependencies.cluster
        epoch_of = await epochs(self._dependencies.database, [number])
        document = shard_document(number, cluster.snapshot, epoch_of)
        answer(response, {**document, **mark_staleness(cluster, response)})


def _number(value: Any) -> int:
    if not (isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10):
        raise ValueError("must be the number of a shard")
    return int(value)
