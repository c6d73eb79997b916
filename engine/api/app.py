"""The API: one table of routes over the database and the watched cluster.

`create_app` is pure: it builds an app over what it is given. `from_environment` alone reads
configuration (the file that ENGINE_CONFIG_FILE names); it is what gunicorn calls, in each worker, and
what it builds is opened in the worker's loop by the lifespan.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from falcon.asgi import App, Response

from engine import options
from engine.api.cluster import ClusterWatch
from engine.api.clusters import ClusterResource, Clusters
from engine.api.commands import Cancellation, CommandResource, Commands, Resolution
from engine.api.configuration import Configuration, Option
from engine.api.dependencies import Dependencies
from engine.api.errors import add_error_handlers
from engine.api.events import Events
from engine.api.health import Exposition, Health, Readiness
from engine.api.hosts import HostAction, HostResource, Hosts
from engine.api.http import EngineRequest
from engine.api.index import Index
from engine.api.locking import PresentLocks
from engine.api.locks import LockList, LockResource, Release
from engine.api.members import Members
from engine.api.shards import Shard, Shards
from engine.api.singletons import Singletons
from engine.api.status import Status
from engine.api.vms import VmAction, VmResource, Vms
from engine.commands.catalogue import load_commands
from engine.commands.store import CommandStore
from engine.commands.submission import Submission
from engine.db.database import Database
from engine.db.options import DatabaseSettings
from engine.extensions import installed
from engine.hosts.inventory.store import InventoryStore
from engine.hosts.store import HostStore

EngineApp = App[EngineRequest, Response]


def routes(dependencies: Dependencies) -> dict[str, Any]:
    """Every route and the resource behind it."""
    cluster, secrets = dependencies.cluster, dependencies.secrets
    inventory = InventoryStore(dependencies.database, now=dependencies.now)
    return {
        "/v1/status": Status(dependencies),
        "/v1/members": Members(cluster),
        "/v1/shards": Shards(dependencies),
        "/v1/shards/{shard}": Shard(dependencies),
        "/v1/hosts": Hosts(dependencies),
        "/v1/hosts/{host}": HostResource(dependencies),
        "/v1/hosts/{host}/{action}": HostAction(dependencies),
        "/v1/vms": Vms(inventory, shards=dependencies.shards),
        "/v1/vms/{vm}": VmResource(inventory),
        "/v1/vms/{vm}/{action}": VmAction(inventory, dependencies.hosts, dependencies.commands),
        "/v1/clusters": Clusters(inventory),
        "/v1/clusters/{cluster}": ClusterResource(inventory),
        "/v1/commands": Commands(dependencies.commands),
        "/v1/commands/{command}": CommandResource(dependencies.commands),
        "/v1/commands/{command}/cancel": Cancellation(dependencies.commands),
        "/v1/commands/{command}/resolve": Resolution(dependencies.commands),
        "/v1/locks": LockList(dependencies.locks),
        "/v1/locks/{lock}": LockResource(dependencies.locks),
        "/v1/locks/{lock}/release": Release(dependencies),
        "/v1/events": Events(dependencies.database),
        "/v1/singletons": Singletons(cluster),
        "/v1/config": Configuration(cluster, secrets),
        "/v1/config/{group}/{option}": Option(cluster, secrets),
        "/healthz": Health(),
        "/readyz": Readiness(dependencies),
        "/metrics": Exposition(dependencies),
    }


def create_app(
    dependencies: Dependencies, *, lifespan: AbstractAsyncContextManager[Any] | None = None
) -> EngineApp:
    """The app over `dependencies`; `lifespan` is entered when the server starts, left when it stops."""
    middleware: list[Any] = [dependencies.metrics]
    if lifespan is not None:
        middleware.append(Lifespan(lifespan))
    app: EngineApp = App(request_type=EngineRequest, middleware=middleware)
    app.req_options.strip_url_path_trailing_slash = True
    add_error_handlers(app)
    table = routes(dependencies)
    for path, resource in {"/": Index(table), "/v1": Index(table), **table}.items():
        app.add_route(path, resource)
    return app


class Lifespan:
    """Enters a context when the server starts and leaves it when the server stops."""

    def __init__(self, context: AbstractAsyncContextManager[Any]) -> None:
        self._context = context

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        await self._context.__aenter__()

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        await self._context.__aexit__(None, None, None)


def from_environment(environ: Mapping[str, str] = os.environ) -> EngineApp:
    """The app as ENGINE_CONFIG_FILE configures it. For gunicorn: one a worker, after the fork."""
    file = environ.get("ENGINE_CONFIG_FILE")
    conf = options.load([file] if file else [], program="engine-api")
    settings = DatabaseSettings.from_conf(conf)
    database = Database(
        settings.url,
        program="api",
        busy_timeout_seconds=settings.busy_timeout_seconds,
        pool_size=settings.pool_size,
    )
    cluster = ClusterWatch(options.session_settings(conf))
    locks = PresentLocks(lambda: cluster.session, database, name=f"api-{os.getpid()}")
    drivers = frozenset(installed("engine.drivers"))
    dependencies = Dependencies(
        database=database,
        hosts=HostStore(database, drivers=drivers),
        cluster=cluster,
        commands=Submission(
            store=CommandStore(database),
            catalogue=load_commands(),
            locks=locks,
            bump=cluster.bump,
            shards=conf.sharding.shards,
        ),
        locks=locks,
        shards=conf.sharding.shards,
        drivers=drivers,
        secrets=frozenset(
            f"{group}/{option.dest}"
            for group, declared in options.list_opts()
            for option in declared
            if option.secret
        ),
    )
    return create_app(dependencies, lifespan=_opened(database, cluster))


@contextlib.asynccontextmanager
async def _opened(database: Database, cluster: ClusterWatch) -> AsyncIterator[None]:
    async with database, cluster:
        yield
