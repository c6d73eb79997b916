"""`/v1/config`: the configuration that the cluster shares, as `/config` in ZooKeeper has it.

Values are checked against the registered options before anything is written, and a set of changes is
written as a whole. Secrets are kept as ciphertext and never shown: options declared secret, and those that
nobody here declares (a plugin's on another machine) but whose names sound like one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import falcon
from falcon.asgi import Request, Response

from engine.api.commands import user_of
from engine.api.dependencies import Cluster
from engine.api.entities import wanted_version
from engine.api.fields import Fields, text
from engine.api.host_clusters import ClusterNames
from engine.api.http import EngineRequest, answer, next_link, page_of, read_json, take_paging
from engine.api.staleness import mark_staleness
from engine.config.catalogue import Declared, OptionCatalogue, canonical
from engine.config.shared import Change, Revision, SharedConfiguration
from engine.coordination.operations import MalformedNode, Node
from engine.errors import Conflict, InvalidInput, NotFound, Unavailable
from engine.hosts.inventory.records import HostCluster
from engine.secrets import Secrets

MASK = "***"
MOST_COMMENT = 500

_SOUNDS_SECRET = re.compile(r"passw|secret|token|credential|private|digest|(^|_)key$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationDesk:
    """What the resources work with. `shared` needs a session of this moment, or raises `Unavailable`."""

    cluster: Cluster
    catalogue: OptionCatalogue
    shared: Callable[[], SharedConfiguration]
    secrets: Secrets
    clusters: Callable[[], Awaitable[Sequence[HostCluster]]]

    async def names(self, *options: str) -> ClusterNames:
        """Of the host clusters, where one of these options is for the hosts of one. Raises `Unavailable`."""
        if not any("@" in option for option in options):
            return ClusterNames({})
        return ClusterNames({cluster.id: cluster.name for cluster in await self.clusters()})

    async def names_to_tell(self, *options: str) -> ClusterNames:
        """As `names`; ids have to do while the database is away."""
        try:
            return await self.names(*options)
        except Unavailable:
            return ClusterNames({})

    def hides(self, key: str) -> bool:
        declared = self.catalogue.get(key)
        return declared.secret if declared else _SOUNDS_SECRET.search(key.partition("/")[2]) is not None

    def node(self, declared: Declared, given: Any) -> bytes:
        """What is to be written for what a user gave. Raises `InvalidInput`, `Conflict` without a key."""
        data = canonical(declared, given)
        if declared.secret:
            return json.dumps(self.secrets.encrypt(str(json.loads(data)))).encode()
        return data

    def wanted(
        self, given: Mapping[str, Any], unset: list[str], names: ClusterNames
    ) -> dict[str, bytes | None]:
        """Every option that is wrong is told at once, as `InvalidInput`."""
        wanted: dict[str, bytes | None] = {}
        wrong: dict[str, str] = {}
        told = []
        for name, value in [*given.items(), *((name, None) for name in unset)]:
            try:
                declared = self.catalogue.settable(names.kept(name))
                wanted[declared.key] = None if name in unset else self.node(declared, value)
            except InvalidInput as error:
                wrong |= {names.told(field): why for field, why in error.fields.items()}
                told.append(names.told(str(error)))
        if both := sorted(set(given) & set(unset)):
            raise InvalidInput(f"{both[0]} is to be set and to be unset", fields={both[0]: "is given twice"})
        if told:
            raise InvalidInput("; ".join(told)[:2000], fields=wrong)
        return wanted

    def change_document(self, change: Change, names: ClusterNames) -> dict[str, Any]:
        declared = self.catalogue.get(change.key)
        return {
            "option": names.told(change.key).replace("/", "."),
            "old": self._shown(change.key, change.old),
            "new": self._shown(change.key, change.new),
            "takes_effect": "now" if declared is not None and declared.mutable else "at a restart",
        }

    def revision_document(self, revision: Revision, names: ClusterNames) -> dict[str, Any]:
        return {
            "revision": revision.number,
            "at": revision.at,
            "user": revision.user,
            "comment": revision.comment,
            "engine": revision.engine,
            "changes": [self.change_document(change, names) for change in revision.changes],
        }

    def option_document(self, path: str, node: Node, names: ClusterNames) -> dict[str, Any]:
        group, _, option = path.partition("/")
        secret = self.hides(path)
        return {
            "group": names.told(group),
            "option": option,
            "value": MASK if secret else _value(node),
            "secret": secret,
            "version": node.stat.version,
            "changed": datetime.fromtimestamp(node.stat.mtime_ms / 1000, UTC),
        }

    def _shown(self, key: str, data: str | None) -> Any:
        if data is None:
            return None
        if self.hides(key):
            return MASK
        try:
            return json.loads(data)
        except ValueError:
            return data


class Configuration:
    """All that is set; PATCH sets and unsets many at once."""

    def __init__(self, desk: ConfigurationDesk) -> None:
        self._desk = desk

    async def on_get(self, request: Request, response: Response) -> None:
        with Fields(request.params) as fields:
            limit, marker = take_paging(fields)
            engine = fields.take("engine", text, default=None)
        if engine is None:
            options = self._desk.cluster.snapshot.config
        else:
            options = await self._desk.shared().values(engine)
        page, following = page_of(sorted(options), str, limit=limit, marker=marker)
        names = await self._desk.names_to_tell(*page)
        documents = [self._desk.option_document(path, options[path], names) for path in page]
        answer(
            response,
            {
                "options": documents,
                "next": next_link(request, following),
                **mark_staleness(self._desk.cluster, response),
            },
        )

    async def on_patch(self, request: EngineRequest, response: Response) -> None:
        with Fields(await read_json(request)) as fields:
            given = fields.take("set", _object, default={})
            unset = fields.take("unset", _names, default=[])
            engine = fields.take("engine", text, default=None)
            comment = fields.take("comment", _comment, default="")
            dry_run = fields.take("dry_run", _boolean, default=False)
        wanted = self._desk.wanted(given, unset, await self._desk.names(*given, *unset))
        if not wanted:
            raise InvalidInput("nothing is to be changed: name options in `set` or `unset`")
        if dry_run:
            answer(response, {"revision": None, "changes": [], "valid": sorted(wanted)})
            return
        revision = await self._desk.shared().change(
            wanted, user=user_of(request), comment=comment, engine=engine
        )
        answer(response, await changed_document(self._desk, revision))


class Option:
    """One of them. PUT sets it (`If-Match`: the version that was seen), DELETE leaves it to the default."""

    heeds_query = True

    def __init__(self, desk: ConfigurationDesk) -> None:
        self._desk = desk

    async def on_get(self, request: Request, response: Response, group: str, option: str) -> None:
        with Fields(request.params) as fields:
            engine = fields.take("engine", text, default=None)
        desk = self._desk
        names = await desk.names(group)
        key = f"{names.kept(group)}/{option}"
        nodes = desk.cluster.snapshot.config if engine is None else await desk.shared().values(engine)
        if (node := nodes.get(key)) is None:
            raise NotFound(f"the cluster sets no option {option[:100]!r} in group {group[:100]!r}")
        response.set_header("ETag", f'"{node.stat.version}"')
        answer(response, {**desk.option_document(key, node, names), **mark_staleness(desk.cluster, response)})

    async def on_put(self, request: EngineRequest, response: Response, group: str, option: str) -> None:
        with Fields(request.params):
            pass
        with Fields(await read_json(request)) as fields:
            value = fields.take("value", lambda given: given)
            engine = fields.take("engine", text, default=None)
            comment = fields.take("comment", _comment, default="")
        names = await self._desk.names(group)
        declared = self._desk.catalogue.settable(f"{names.kept(group)}/{option}")
        await self._change(request, response, declared.key, self._desk.node(declared, value), engine, comment)

    async def on_delete(self, request: EngineRequest, response: Response, group: str, option: str) -> None:
        with Fields(request.params) as fields:
            engine = fields.take("engine", text, default=None)
        names = await self._desk.names(group)
        await self._change(request, response, f"{names.kept(group)}/{option}", None, engine, "")

    async def _change(
        self,
        request: EngineRequest,
        response: Response,
        key: str,
        data: bytes | None,
        engine: str | None,
        comment: str,
    ) -> None:
        version = wanted_version(request)
        try:
            revision = await self._desk.shared().change(
                {key: data},
                user=user_of(request),
                comment=comment,
                engine=engine,
                versions=None if version is None else {key: version},
            )
        except Conflict as conflict:
            if version is None:
                raise
            raise falcon.HTTPPreconditionFailed(description=str(conflict)) from conflict
        if revision is None and data is None:
            raise NotFound(f"the cluster does not set {key.replace('/', '.')}")
        answer(response, await changed_document(self._desk, revision))


async def changed_document(desk: ConfigurationDesk, revision: Revision | None) -> dict[str, Any]:
    """What a change answers; no revision where everything was as wanted already."""
    if revision is None:
        return {"revision": None, "changes": []}
    names = await desk.names_to_tell(*(change.key for change in revision.changes))
    return desk.revision_document(revision, names)


def _value(node: Node) -> Any:
    """JSON, or the text that somebody typed in zkCli."""
    try:
        return node.json()
    except MalformedNode:
        return node.data.decode("utf-8", "replace")


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("must be an object: option to value")
    return value


def _names(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("must be a list of options")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _comment(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MOST_COMMENT:
        raise ValueError(f"must be a text of {MOST_COMMENT} characters at most")
    return value
