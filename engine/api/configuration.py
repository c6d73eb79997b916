"""`/v1/config`: the configuration that the cluster shares, as `/config` in ZooKeeper has it.

Secrets are never shown: options declared secret, and those that nobody here declares (a plugin's on
another machine) but whose names sound like one.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from falcon.asgi import Request, Response

from engine.api.dependencies import Cluster
from engine.api.fields import Fields
from engine.api.http import answer, next_link, page_of, take_paging
from engine.api.staleness import mark_staleness
from engine.coordination.operations import MalformedNode, Node
from engine.errors import NotFound

MASK = "***"

_SOUNDS_SECRET = re.compile(r"passw|secret|token|credential|private|digest|(^|_)key$", re.IGNORECASE)


def option_document(path: str, node: Node, secrets: Collection[str]) -> dict[str, Any]:
    group, _, option = path.partition("/")
    secret = path in secrets or _SOUNDS_SECRET.search(option) is not None
    return {
        "group": group,
        "option": option,
        "value": MASK if secret else _value(node),
        "secret": secret,
        "version": node.stat.version,
        "changed": datetime.fromtimestamp(node.stat.mtime_ms / 1000, UTC),
    }


class Configuration:
    def __init__(self, cluster: Cluster, secrets: Collection[str]) -> None:
        self._cluster = cluster
        self._secrets = secrets

    async def on_get(self, request: Request, response: Response) -> None:
        with Fields(request.params) as fields:
            limit, marker = take_paging(fields)
        options = self._cluster.snapshot.config
        page, following = page_of(sorted(options), str, limit=limit, marker=marker)
        documents = [option_document(path, options[path], self._secrets) for path in page]
        answer(
            response,
            {
                "options": documents,
                "next": next_link(request, following),
                **mark_staleness(self._cluster, response),
            },
        )


class Option:
    def __init__(self, cluster: Cluster, secrets: Collection[str]) -> None:
        self._cluster = cluster
        self._secrets = secrets

    async def on_get(self, request: Request, response: Response, group: str, option: str) -> None:
        with Fields(request.params):
            pass
        node = self._cluster.snapshot.config.get(f"{group}/{option}")
        if node is None:
            raise NotFound(f"the cluster sets no option {option[:100]!r} in group {group[:100]!r}")
        document = option_document(f"{group}/{option}", node, self._secrets)
        answer(response, {**document, **mark_staleness(self._cluster, response)})


def _value(node: Node) -> Any:
    """JSON, or the text that somebody typed in zkCli."""
    try:
        return node.json()
    except MalformedNode:
        return node.data.decode("utf-8", "replace")
