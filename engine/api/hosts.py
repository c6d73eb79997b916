"""`/v1/hosts`: the hosts; adding one writes a row, and its shard's owner starts to watch it.

The owner is told by a bump of the shard's inbox. The row counts, not the bump: a host is added also
while ZooKeeper is away, since owners look for new rows by themselves, too. Changing and removing need
the host's lock.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import falcon
from falcon.asgi import Request, Response

from engine.api.commands import submit_action
from engine.api.dependencies import Cluster, Dependencies
from engine.api.editing import Editor
from engine.api.entities import answer_version, taken, wanted_version
from engine.api.fields import Fields, integer, several, text
from engine.api.http import EngineRequest, answer, next_link, read_json, read_json_if_any, take_paging
from engine.api.snapshot import ClusterSnapshot
from engine.commands.store import Connection
from engine.errors import EngineError, NotFound, Unavailable
from engine.hosts.records import Host, checked_address, checked_driver, checked_name
from engine.hosts.status import HostStatus
from engine.hosts.store import SORT_KEYS
from engine.plugin import EngineId

LOG = logging.getLogger(__name__)

DEFAULT_PORT = 54321
"""Where host agents listen by custom."""

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def host_document(host: Host, owner: EngineId | None) -> dict[str, Any]:
    return {
        "id": host.id,
        "name": host.name,
        "address": host.address,
        "port": host.port,
        "driver": host.driver,
        "shard": host.shard,
        "owner": owner,
        "status": host.status,
        "status_reason": host.status_reason,
        "status_since": host.status_since,
        "capabilities": host.capabilities,
        "statistics": host.statistics,
        "reported_at": host.reported_at,
        "created_at": host.created_at,
        "cluster_id": host.cluster_id,
        "power_management": _without_password(host.power_management),
        "fenced_at": host.fenced_at,
        "version": host.version,
    }


def _without_password(agent: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if agent is None else {name: value for name, value in agent.items() if name != "password"}


class Hosts:
    def __init__(self, dependencies: Dependencies, editor: Editor) -> None:
        self._dependencies = dependencies
        self._editor = editor
        self._store = dependencies.hosts

    async def on_get(self, request: Request, response: Response) -> None:
        with Fields(request.params) as fields:
            limit, marker = take_paging(fields)
            statuses = fields.take("status", several(_status), default=())
            name = fields.take("name", text, default=None)
            cluster = fields.take("cluster", text, default=None)
            sort = fields.take("sort", _sort, default="name")
        page = await self._store.page(
            limit=limit,
            marker=marker,
            statuses=statuses,
            name=name and _pattern(name),
            cluster=cluster,
            sort=sort,
        )
        owners = _Owners(self._dependencies.cluster)
        documents = [host_document(host, owners.of(host)) for host in page.hosts]
        answer(response, {"hosts": documents, "next": next_link(request, page.next_marker)})

    async def on_post(self, request: EngineRequest, response: Response) -> None:
        with Fields(await read_json(request)) as fields:
            asked: dict[str, Any] = {
                "name": fields.take("name", _name),
                "address": fields.take("address", lambda value: checked_address(text(value))),
                "port": fields.take("port", _port, default=DEFAULT_PORT),
                "driver": fields.take("driver", self._driver, default=self._only_driver()),
                "power_management": fields.take("power_management", _agent, default=None),
            }
            cluster = fields.take("cluster", text, default=None)
        if cluster is not None:
            asked["cluster"] = cluster
        dependencies = self._dependencies

        async def write(connection: Connection) -> Host:
            return await self._store.add(**asked, shards=dependencies.shards, within=connection)

        host = await self._editor.add(request, response, asked, write, self._store.get)
        await _bump(dependencies.cluster, host, request)
        response.set_header("Location", f"/v1/hosts/{host.id}")
        document = host_document(host, _Owners(dependencies.cluster).of(host))
        answer_version(response, document, status=falcon.HTTP_201)

    def _driver(self, value: Any) -> str:
        return checked_driver(text(value), self._dependencies.drivers)

    def _only_driver(self) -> Any:
        """Where one driver is installed nobody needs to name it."""
        installed = list(self._dependencies.drivers)
        return installed[0] if len(installed) == 1 else Fields.REQUIRED


class HostResource:
    def __init__(self, dependencies: Dependencies, editor: Editor) -> None:
        self._dependencies = dependencies
        self._editor = editor
        self._store = dependencies.hosts

    async def on_get(self, request: Request, response: Response, host: str) -> None:
        if request.params:
            with Fields(request.params):
                pass
        found = await self._store.get(host)
        answer_version(response, host_document(found, _Owners(self._dependencies.cluster).of(found)))

    async def on_patch(self, request: EngineRequest, response: Response, host: str) -> None:
        checks: Mapping[str, Callable[[Any], Any]] = {
            "name": _name,
            "address": lambda value: checked_address(text(value)),
            "port": _port,
            "cluster": text,
            "power_management": _agent,
        }
        changes = taken(await read_json(request), checks, may_be_null=("power_management",))
        version = wanted_version(request)
        id = (await self._store.get(host)).id

        async def write(connection: Connection) -> Host:
            return await self._store.update(id, changes, version=version, within=connection)

        changed = await self._editor.change(request, response, id, changes, write, self._store.get)
        await _bump(self._dependencies.cluster, changed, request)
        owner = _Owners(self._dependencies.cluster).of(changed)
        answer_version(response, host_document(changed, owner))

    async def on_delete(self, request: EngineRequest, response: Response, host: str) -> None:
        with Fields(request.params):
            pass
        version = wanted_version(request)
        found = await self._store.get(host)

        async def write(connection: Connection) -> Host:
            return await self._store.remove(found.id, version=version, within=connection)

        await self._editor.remove(request, response, found.id, write)
        await _bump(self._dependencies.cluster, found, request)
        response.status = falcon.HTTP_204


HOST_ACTIONS: Mapping[str, str] = {
    "activate": "activate_host",
    "maintenance": "deactivate_host",
    "deactivate": "deactivate_host",
    "approve": "approve_host",
    "refresh": "refresh_host",
    "fence": "fence_host",
    "restart-agent": "restart_agent",
    "confirm-rebooted": "confirm_rebooted",
}


class HostAction:
    """`POST /v1/hosts/{host}/{action}`; `fence` takes `power`: on, off, reboot or status."""

    heeds_query = True

    def __init__(self, dependencies: Dependencies) -> None:
        self._store = dependencies.hosts
        self._submission = dependencies.commands

    async def on_post(self, request: EngineRequest, response: Response, host: str, action: str) -> None:
        if action not in HOST_ACTIONS:
            raise NotFound(f"a host has no action {action[:64]!r}; there are {', '.join(HOST_ACTIONS)}")
        arguments: dict[str, Any] = {}
        with Fields(await read_json_if_any(request)) as fields:
            if action == "fence":
                arguments["power"] = fields.take("power", text)
        found = await self._store.get(host)
        arguments["host_id"] = found.id
        await submit_action(request, response, self._submission, HOST_ACTIONS[action], arguments)


class _Owners:
    """Who owns a host, as far as the snapshot knows."""

    def __init__(self, cluster: Cluster) -> None:
        self._snapshot: ClusterSnapshot | None = None
        with contextlib.suppress(Unavailable):  # a host is shown also while nobody knows its owner
            self._snapshot = cluster.snapshot

    def of(self, host: Host) -> EngineId | None:
        return self._snapshot.owner(host.shard) if self._snapshot is not None else None


async def _bump(cluster: Cluster, host: Host, request: EngineRequest) -> None:
    try:
        await cluster.bump(host.shard)
    except EngineError as error:
        LOG.warning("request=%s host=%s: the owner was not told: %s", request.request_id, host.id, error)


def _name(value: Any) -> str:
    if _UUID.fullmatch(text(value)):
        raise ValueError("must not look like an id")
    return checked_name(value)


def _port(value: Any) -> int:
    if isinstance(value, str):
        raise ValueError("must be a number from 1 to 65535, not a string")
    return integer(1, 65535)(value)


def _agent(value: Any) -> dict[str, Any]:
    """How the power of a host is reached: the fields of `FenceAgent`."""
    if not isinstance(value, dict):
        raise ValueError("must be an object or null")
    with Fields(value) as fields:
        return {
            "kind": fields.take("kind", text),
            "address": fields.take("address", text),
            "port": fields.take("port", integer(1, 65535)),
            "username": fields.take("username", text),
            "password": fields.take("password", text),
        }


def _status(value: Any) -> HostStatus:
    try:
        return HostStatus(value)
    except ValueError:
        raise ValueError(f"must be one of {', '.join(HostStatus)}") from None


def _sort(value: Any) -> str:
    if not isinstance(value, str) or value.removeprefix("-") not in SORT_KEYS:
        raise ValueError(f"must be one of {', '.join(SORT_KEYS)}, with - in front for descending")
    return value


def _pattern(name: str) -> str:
    """A name without wildcards is the beginning of a name."""
    return name if "*" in name or "?" in name else f"{name}*"
