"""`GET /v1/clusters/{cluster}/place`: where a VM of some size would go now.

Any engine can say so from what it has at hand, so one that is up is asked, and the next where it does not
answer. A preview: what runs a VM decides again.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec
from falcon.asgi import Request, Response

from engine.api.dependencies import Dependencies
from engine.api.fields import Fields, integer, text
from engine.api.http import answer
from engine.errors import Unavailable
from engine.hosts.inventory.store import InventoryStore
from engine.plugin import OnMember

_MOST_MIB = 2**30
_SECONDS = 3.0


class Placement:
    def __init__(self, dependencies: Dependencies, inventory: InventoryStore) -> None:
        self._dependencies = dependencies
        self._inventory = inventory

    async def on_get(self, request: Request, response: Response, cluster: str) -> None:
        with Fields(request.params) as fields:
            memory_mib = fields.take("memory_mib", integer(1, _MOST_MIB))
            cpus = fields.take("cpus", integer(1, 4096), default=1)
            group = fields.take("affinity_group", text, default=None)
            affinity = fields.take("affinity", text, default=None)
        found = await self._inventory.cluster(cluster)
        wanted: dict[str, Any] = {
            "cluster_id": found.id,
            "memory_bytes": memory_mib * 2**20,
            "cpus": cpus,
            "group": group,
            "affinity": affinity,
        }
        answer(response, msgspec.to_builtins(await self._ask(wanted)))

    async def _ask(self, wanted: dict[str, Any]) -> Any:
        calls = self._dependencies.calls
        if calls is None:
            raise Unavailable("this API calls no engines")
        members = [m.engine for m in self._dependencies.cluster.snapshot.members if m.state == "up"]
        trouble = "no engine is up"
        for engine in random.sample(members, len(members)):
            try:
                return await calls.call("place_vm", wanted, on=OnMember(engine), timeout_seconds=_SECONDS)
            except Unavailable as error:
                trouble = str(error)
        raise Unavailable(trouble)
