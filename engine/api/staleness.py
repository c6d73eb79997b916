"""How an answer from the snapshot says that ZooKeeper is away and it may be out of date."""

from __future__ import annotations

from typing import Any

from falcon.asgi import Response

from engine.api.dependencies import Cluster


def mark_staleness(cluster: Cluster, response: Response) -> dict[str, Any]:
    """The field `stale_since` for the document; where it is not null, the header `X-Stale-Since` too."""
    since = cluster.stale_since
    if since is not None:
        response.set_header("X-Stale-Since", since.isoformat())
    return {"stale_since": since}
