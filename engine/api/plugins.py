"""`/v1/plugins`: what is installed where this API runs, what may run, and where it does.

`POST /v1/plugins/reload` has every API worker end and be started anew, one a moment after the other; engines
are started again one by one by whoever asks (`engine plugins reload`), who sees each come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import falcon
from falcon.asgi import Request, Response

from engine.api.dependencies import Cluster
from engine.api.fields import Fields
from engine.api.http import answer
from engine.extensions import Installed, Surveyed


class Plugins:
    def __init__(self, cluster: Cluster, installed: Installed) -> None:
        self._cluster = cluster
        self._installed = installed

    async def on_get(self, request: Request, response: Response) -> None:
        with Fields(request.params):
            pass
        surveyed = await asyncio.to_thread(self._installed.survey)  # it imports
        answer(response, {"plugins": [self._document(plugin) for plugin in surveyed]})

    def _document(self, plugin: Surveyed) -> dict[str, Any]:
        offer = plugin.offer
        return {
            "kind": offer.namespace.removeprefix("engine.").removesuffix("s"),
            "name": offer.name,
            "distribution": offer.origin,
            "version": offer.version,
            "source": offer.entry_point.value,
            "options": plugin.options,
            "runs_on": self._runs_on(plugin),
            "refused": plugin.refusal,
        }

    def _runs_on(self, plugin: Surveyed) -> str:
        """An engine, or where in general plugins of this kind are."""
        if plugin.refusal:
            return ""
        if plugin.offer.namespace != "engine.singletons":
            return "every engine"
        if plugin.scope == "shard":
            return "each shard's owner"
        if plugin.scope == "engine":
            return "every engine"
        line = self._cluster.snapshot.singletons.get(plugin.offer.name, ())
        return line[0].engine if line else ""


class PluginsReload:
    def __init__(self, reload: Callable[[], Awaitable[None]]) -> None:
        self._reload = reload

    async def on_post(self, request: Request, response: Response) -> None:
        with Fields(request.params):
            pass
        await self._reload()
        answer(response, {"reloading": "the API's workers"}, status=falcon.HTTP_202)
