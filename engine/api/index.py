"""`/` and `/v1`: what there is."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version

from falcon.asgi import Request, Response

from engine.api.http import answer


class Index:
    def __init__(self, paths: Iterable[str]) -> None:
        self._document = {"name": "engine-ha", "version": version("engine-ha"), "paths": sorted(paths)}

    async def on_get(self, request: Request, response: Response) -> None:
        answer(response, self._document)
