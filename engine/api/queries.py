"""Writes whose query nobody reads: refused, so that a misspelt or misplaced parameter is not ignored.

Reads and the few writes that take parameters check these themselves; the resources of such writes
say so (`heeds_query = True`). Middleware of the app.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from falcon.asgi import Request, Response

from engine.api.fields import Fields

_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class RefusedQueries:
    async def process_resource(
        self, request: Request, response: Response, resource: object, params: Mapping[str, Any]
    ) -> None:
        if request.method in _WRITES and request.params and not getattr(resource, "heeds_query", False):
            with Fields(request.params):
                pass
