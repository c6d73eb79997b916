"""`/v1/vms`: the virtual machines, what people change about them, and what they are asked to do.

Adding, changing and removing are edits, answered with the VM; a change may name the version that it was
made from (`If-Match`). Actions are commands: the answer is the command, at once or when it has ended
(`?wait=30s`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import falcon
from falcon.asgi import Request, Response

from engine.api.commands import submit_action
from engine.api.editing import Editor
from engine.api.entities import answer_version, boolean, line, taken, wanted_version
from engine.api.fields import Fields, several, text
from engine.api.http import EngineRequest, answer, next_link, read_json, read_json_if_any, take_paging
from engine.commands.store import Connection
from engine.commands.submission import Submission
from engine.errors import NotFound
from engine.hosts.inventory.records import (
    AFFINITIES,
    Vm,
    checked_cpus,
    checked_entity_name,
    checked_memory,
    checked_priority,
    checked_word,
)
from engine.hosts.inventory.store import VM_SORT_KEYS, InventoryStore
from engine.hosts.store import HostStore
from engine.plugin import VmStatus

VM_ACTIONS: Mapping[str, str] = {
    "run": "run_vm",
    "stop": "stop_vm",
    "shutdown": "shutdown_vm",
    "reboot": "reboot_vm",
    "pause": "pause_vm",
    "resume": "resume_vm",
    "migrate": "migrate_vm",
    "cancel-migration": "cancel_migration",
}
_PLACED = ("run", "migrate")
"""Actions that take a host."""


def vm_document(vm: Vm) -> dict[str, Any]:
    return {
        "id": vm.id,
        "name": vm.name,
        "description": vm.description,
        "cluster_id": vm.cluster_id,
        "memory_bytes": vm.memory_bytes,
        "cpus": vm.cpus,
        "highly_available": vm.highly_available,
        "priority": vm.priority,
        "wanted": vm.wanted,
        "restart_tries": vm.restart_tries,
        "restart_at": vm.restart_at,
        "pinned_host_id": vm.pinned_host_id,
        "affinity_group": vm.affinity_group,
        "affinity": vm.affinity,
        "status": vm.status,
        "status_reason": vm.status_reason,
        "status_since": vm.status_since,
        "host_id": vm.host_id,
        "destination_id": vm.destination_id,
        "exit_code": vm.exit_code,
        "exit_reason": vm.exit_reason,
        "exit_message": vm.exit_message,
        "reported_at": vm.reported_at,
        "created_at": vm.created_at,
        "version": vm.version,
    }


class Vms:
    def __init__(self, inventory: InventoryStore, editor: Editor, *, shards: int) -> None:
        self._inventory = inventory
        self._editor = editor
        self._shards = shards

    async def on_get(self, request: Request, response: Response) -> None:
        with Fields(request.params) as fields:
            limit, marker = take_paging(fields)
            statuses = fields.take("status", several(_status), default=())
            name = fields.take("name", text, default=None)
            host = fields.take("host", text, default=None)
            cluster = fields.take("cluster", text, default=None)
            sort = fields.take("sort", _sort, default="name")
        page = await self._inventory.vms(
            limit=limit,
            marker=marker,
            statuses=statuses,
            name=name and (name if "*" in name or "?" in name else f"{name}*"),
            host=host,
            cluster=cluster,
            sort=sort,
        )
        documents = [vm_document(vm) for vm in page.vms]
        answer(response, {"vms": documents, "next": next_link(request, page.next_marker)})

    async def on_post(self, request: EngineRequest, response: Response) -> None:
        with Fields(await read_json(request)) as fields:
            asked: dict[str, Any] = {
                "name": fields.take("name", checked_entity_name),
                "memory_bytes": fields.take("memory_bytes", checked_memory),
                "cpus": fields.take("cpus", checked_cpus, default=1),
                "description": fields.take("description", line, default=""),
                "highly_available": fields.take("highly_available", boolean, default=False),
                "priority": fields.take("priority", checked_priority, default=50),
                "pinned_host": fields.take("pinned_host", text, default=None),
                "affinity_group": fields.take("affinity_group", text, default=None),
                "affinity": fields.take("affinity", _affinity, default=None),
            }
            cluster = fields.take("cluster", text, default=None)
        if cluster is not None:
            asked["cluster"] = cluster

        async def write(connection: Connection) -> Vm:
            return await self._inventory.add_vm(**asked, shards=self._shards, within=connection)

        vm = await self._editor.add(request, response, asked, write, self._inventory.vm)
        response.set_header("Location", f"/v1/vms/{vm.id}")
        answer_version(response, vm_document(vm), status=falcon.HTTP_201)


class VmResource:
    def __init__(self, inventory: InventoryStore, editor: Editor) -> None:
        self._inventory = inventory
        self._editor = editor

    async def on_get(self, request: Request, response: Response, vm: str) -> None:
        with Fields(request.params):
            pass
        answer_version(response, vm_document(await self._inventory.vm(vm)))

    async def on_patch(self, request: EngineRequest, response: Response, vm: str) -> None:
        body = await read_json(request)
        checks: Mapping[str, Callable[[Any], Any]] = {
            "name": checked_entity_name,
            "description": line,
            "memory_bytes": checked_memory,
            "cpus": checked_cpus,
            "highly_available": boolean,
            "priority": checked_priority,
            "pinned_host": text,
            "affinity_group": text,
            "affinity": _affinity,
            "cluster": text,
        }
        changes = taken(body, checks, may_be_null=("pinned_host", "affinity_group", "affinity"))
        version = wanted_version(request)
        id = (await self._inventory.vm(vm)).id

        async def write(connection: Connection) -> Vm:
            return await self._inventory.update_vm(id, changes, version=version, within=connection)

        changed = await self._editor.change(request, response, id, changes, write, self._inventory.vm)
        answer_version(response, vm_document(changed))

    async def on_delete(self, request: EngineRequest, response: Response, vm: str) -> None:
        with Fields(request.params):
            pass
        version = wanted_version(request)
        id = (await self._inventory.vm(vm)).id

        async def write(connection: Connection) -> Vm:
            return await self._inventory.remove_vm(id, version=version, within=connection)

        await self._editor.remove(request, response, id, write)
        response.status = falcon.HTTP_204


class VmAction:
    """`POST /v1/vms/{vm}/{action}`; `run` and `migrate` take the name or id of a `host`."""

    heeds_query = True

    def __init__(self, inventory: InventoryStore, hosts: HostStore, submission: Submission) -> None:
        self._inventory = inventory
        self._hosts = hosts
        self._submission = submission

    async def on_post(self, request: EngineRequest, response: Response, vm: str, action: str) -> None:
        if action not in VM_ACTIONS:
            raise NotFound(f"a VM has no action {action[:64]!r}; there are {', '.join(VM_ACTIONS)}")
        with Fields(await read_json_if_any(request)) as fields:
            host = fields.take("host", text, default=None) if action in _PLACED else None
        arguments: dict[str, Any] = {"vm_id": (await self._inventory.vm(vm)).id}
        if host is not None:
            arguments["host_id"] = (await self._hosts.get(host)).id
        await submit_action(request, response, self._submission, VM_ACTIONS[action], arguments)


def _status(value: Any) -> VmStatus:
    try:
        return VmStatus(value)
    except ValueError:
        raise ValueError(f"must be one of {', '.join(VmStatus)}") from None


def _sort(value: Any) -> str:
    if not isinstance(value, str) or value.removeprefix("-") not in VM_SORT_KEYS:
        raise ValueError(f"must be one of {', '.join(VM_SORT_KEYS)}, with - in front for descending")
    return value


def _affinity(value: Any) -> str:
    return checked_word("affinity", value, AFFINITIES)
