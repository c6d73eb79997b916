"""`/v1/clusters`: groups of hosts, and how VMs are spread over them."""

from __future__ import annotations

from typing import Any

import falcon
from falcon.asgi import Request, Response

from engine.api.editing import Editor
from engine.api.entities import answer_version, boolean, line, percent, taken, wanted_version
from engine.api.fields import Fields
from engine.api.http import EngineRequest, answer, next_link, page_of, read_json, take_paging
from engine.commands.store import Connection
from engine.hosts.inventory.records import (
    BALANCING,
    POLICIES,
    HostCluster,
    checked_entity_name,
    checked_word,
)
from engine.hosts.inventory.store import InventoryStore


def cluster_document(cluster: HostCluster) -> dict[str, Any]:
    return {
        "id": cluster.id,
        "name": cluster.name,
        "description": cluster.description,
        "policy": cluster.policy,
        "memory_percent": cluster.memory_percent,
        "cpu_percent": cluster.cpu_percent,
        "fencing": cluster.fencing,
        "balancing": cluster.balancing,
        "created_at": cluster.created_at,
        "version": cluster.version,
    }


class Clusters:
    def __init__(self, inventory: InventoryStore, editor: Editor) -> None:
        self._inventory = inventory
        self._editor = editor

    async def on_get(self, request: Request, response: Response) -> None:
        with Fields(request.params) as fields:
            limit, marker = take_paging(fields)
        clusters = sorted(await self._inventory.clusters(), key=lambda cluster: cluster.name)
        page, following = page_of(clusters, lambda cluster: cluster.name, limit=limit, marker=marker)
        documents = [cluster_document(cluster) for cluster in page]
        answer(response, {"clusters": documents, "next": next_link(request, following)})

    async def on_post(self, request: EngineRequest, response: Response) -> None:
        with Fields(await read_json(request)) as fields:
            asked: dict[str, Any] = {
                "name": fields.take("name", checked_entity_name),
                "description": fields.take("description", line, default=""),
                "policy": fields.take("policy", _policy, default="spread"),
                "memory_percent": fields.take("memory_percent", percent, default=100),
                "cpu_percent": fields.take("cpu_percent", percent, default=1000),
                "fencing": fields.take("fencing", boolean, default=True),
                "balancing": fields.take("balancing", _balancing, default="none"),
            }

        async def write(connection: Connection) -> HostCluster:
            return await self._inventory.add_cluster(**asked, within=connection)

        cluster = await self._editor.add(request, response, asked, write, self._inventory.cluster)
        response.set_header("Location", f"/v1/clusters/{cluster.id}")
        answer_version(response, cluster_document(cluster), status=falcon.HTTP_201)


class ClusterResource:
    def __init__(self, inventory: InventoryStore, editor: Editor) -> None:
        self._inventory = inventory
        self._editor = editor

    async def on_get(self, request: Request, response: Response, cluster: str) -> None:
        with Fields(request.params):
            pass
        answer_version(response, cluster_document(await self._inventory.cluster(cluster)))

    async def on_patch(self, request: EngineRequest, response: Response, cluster: str) -> None:
        checks = {
            "name": checked_entity_name,
            "description": line,
            "policy": _policy,
            "memory_percent": percent,
            "cpu_percent": percent,
            "fencing": boolean,
            "balancing": _balancing,
        }
        changes = taken(await read_json(request), checks)
        version = wanted_version(request)
        id = (await self._inventory.cluster(cluster)).id

        async def write(connection: Connection) -> HostCluster:
            return await self._inventory.update_cluster(id, changes, version=version, within=connection)

        changed = await self._editor.change(request, response, id, changes, write, self._inventory.cluster)
        answer_version(response, cluster_document(changed))

    async def on_delete(self, request: EngineRequest, response: Response, cluster: str) -> None:
        version = wanted_version(request)
        id = (await self._inventory.cluster(cluster)).id

        async def write(connection: Connection) -> HostCluster:
            return await self._inventory.remove_cluster(id, version=version, within=connection)

        await self._editor.remove(request, response, id, write)
        response.status = falcon.HTTP_204


def _balancing(value: Any) -> str:
    return checked_word("balancing", value, BALANCING)


def _policy(value: Any) -> str:
    return checked_word("policy", value, POLICIES)
