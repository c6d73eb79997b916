"""`/healthz`, `/readyz`, `/metrics`: for those who watch the API rather than use it.

Alive means that the loop turns. Ready means that ZooKeeper and the database answer and the schema
is this code's; each check says why it failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import falcon
from falcon.asgi import Request, Response

from engine.api.dependencies import Dependencies
from engine.api.http import answer
from engine.api.metrics import CONTENT_TYPE, cluster_gauges
from engine.errors import EngineError, Unavailable

CHECK_SECONDS = 2.0


class Health:
    async def on_get(self, request: Request, response: Response) -> None:
        answer(response, {"status": "ok"})


class Readiness:
    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies

    async def on_get(self, request: Request, response: Response) -> None:
        database = await self._database()
        reasons = {"zookeeper": self._dependencies.cluster.trouble, "database": database}
        ready = not any(reasons.values())
        document: dict[str, Any] = {
            "status": "ready" if ready else "not ready",
            "checks": {name: _check(reason) for name, reason in reasons.items()},
        }
        if (configured := self._dependencies.configured()) is not None:
            document["configuration"] = {
                "pending": configured.pending,
                "refused": configured.refused,
            }
        answer(response, document, status=falcon.HTTP_200 if ready else falcon.HTTP_503)

    async def _database(self) -> str:
        """What is wrong with the database or its schema; empty when nothing is."""
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self._dependencies.database.check_schema()
        except TimeoutError:
            return f"the database did not answer within {CHECK_SECONDS:g} s"
        except EngineError as error:
            return str(error)
        return ""


class Exposition:
    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies

    async def on_get(self, request: Request, response: Response) -> None:
        cluster = self._dependencies.cluster
        try:
            snapshot = cluster.snapshot
        except Unavailable:
            snapshot = None
        gauges = cluster_gauges(snapshot, connected=not cluster.trouble, hosts=await self._hosts())
        response.content_type = CONTENT_TYPE
        response.data = self._dependencies.metrics.render(gauges)

    async def _hosts(self) -> Mapping[str, int] | None:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                found = await self._dependencies.hosts.count_by_status()
        except (TimeoutError, Unavailable):
            return None
        return {str(status): count for status, count in found.items()}


def _check(reason: str) -> dict[str, Any]:
    return {"ok": not reason, "reason": reason}
