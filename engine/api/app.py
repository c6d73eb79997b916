"""The API: one table of routes over the database and the watched cluster.

`create_app` is pure: it builds an app over what it is given. `from_environment` alone reads
configuration (the file that ENGINE_CONFIG_FILE names); it is what gunicorn calls, in each worker, and
what it builds is opened in the worker's loop by the lifespan.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from falcon.asgi import App, Response
from oslo_config import cfg

from engine import options
from engine.api.calling import ApiCalls
from engine.api.cluster import ClusterWatch
from engine.api.clusters import ClusterResource, Clusters
from engine.api.commands import Cancellation, CommandResource, Commands, Resolution
from engine.api.configuration import Configuration, ConfigurationDesk, Option
from engine.api.configuration_history import ConfigurationProgress, History, Options, Rollback
from engine.api.dependencies import Dependencies
from engine.api.editing import Editor
from engine.api.errors import add_error_handlers
from engine.api.events import Events
from engine.api.feed import EventFeed, FeedSettings
from engine.api.health import Exposition, Health, Readiness
from engine.api.hosts import HostAction, HostResource, Hosts
from engine.api.http import EngineRequest
from engine.api.index import Index
from engine.api.jobs import (
    JobAction,
    JobGroupAction,
    JobPreview,
    JobResource,
    JobRuns,
    Jobs,
    desk_over,
)
from engine.api.live import DrainMember, LiveHost, MemberTasks, RestartMember, Statistics, UndrainMember
from engine.api.locking import PresentLocks
from engine.api.locks import LockList, LockResource, Release
from engine.api.members import Members
from engine.api.placement import Placement
from engine.api.plugins import Plugins, PluginsReload
from engine.api.queries import RefusedQueries
from engine.api.reloading import ask_for_reload, heeding_reloads
from engine.api.shards import Shard, Shards
from engine.api.singletons import SingletonAction, SingletonResource, Singletons
from engine.api.status import Status
from engine.api.vms import VmAction, VmResource, Vms
from engine.commands.catalogue import load_commands
from engine.commands.edits import Edits
from engine.commands.store import CommandStore
from engine.commands.submission import Submission
from engine.config.settings import LiveSettings
from engine.config.shared import SharedConfiguration
from engine.coordination.session import Session
from engine.db.database import Database
from engine.db.options import DatabaseSettings
from engine.execution.catalogue import load_tasks
from engine.execution.options import ExecutionSettings
from engine.hosts.inventory.store import InventoryStore
from engine.hosts.store import HostStore
from engine.secrets import Secrets


class EngineApp(App[EngineRequest, Response]):
    """An app that can be told that its server stops: nothing then keeps connections open for ever."""

    def __init__(self, feed: EventFeed, **options: Any) -> None:
        super().__init__(request_type=EngineRequest, **options)
        self.end_streams = feed.stop


def routes(dependencies: Dependencies, feed: EventFeed) -> dict[str, Any]:
    """Every route and the resource behind it."""
    cluster = dependencies.cluster
    inventory = InventoryStore(dependencies.database, now=dependencies.now)
    configuration = ConfigurationDesk(
        cluster=cluster,
        catalogue=dependencies.catalogue,
        shared=dependencies.shared,
        secrets=dependencies.cipher,
        clusters=inventory.clusters,
    )
    jobs = desk_over(dependencies)
    edits = Edits(
        dependencies.commands, locks=dependencies.locks, shards=dependencies.shards, now=dependencies.now
    )
    hosts, vms, clusters = (
        Editor(edits, "host"),
        Editor(edits, "vm"),
        Editor(edits, "host_cluster", "cluster"),
    )
    return {
        "/v1/status": Status(dependencies),
        "/v1/members": Members(cluster),
        "/v1/members/{member}/restart": RestartMember(dependencies),
        "/v1/members/{member}/drain": DrainMember(dependencies),
        "/v1/members/{member}/undrain": UndrainMember(dependencies),
        "/v1/members/tasks": MemberTasks(dependencies),
        "/v1/statistics": Statistics(dependencies),
        "/v1/shards": Shards(dependencies),
        "/v1/shards/{shard}": Shard(dependencies),
        "/v1/hosts": Hosts(dependencies, hosts),
        "/v1/hosts/{host}": HostResource(dependencies, hosts),
        "/v1/hosts/{host}/live": LiveHost(dependencies),
        "/v1/hosts/{host}/{action}": HostAction(dependencies),
        "/v1/vms": Vms(inventory, vms, shards=dependencies.shards),
        "/v1/vms/{vm}": VmResource(inventory, vms),
        "/v1/vms/{vm}/{action}": VmAction(inventory, dependencies.hosts, dependencies.commands),
        "/v1/clusters": Clusters(inventory, clusters),
        "/v1/clusters/{cluster}/place": Placement(dependencies, inventory),
        "/v1/clusters/{cluster}": ClusterResource(inventory, clusters),
        "/v1/commands": Commands(dependencies.commands),
        "/v1/commands/{command}": CommandResource(dependencies.commands),
        "/v1/commands/{command}/cancel": Cancellation(dependencies.commands),
        "/v1/commands/{command}/resolve": Resolution(dependencies.commands),
        "/v1/jobs": Jobs(jobs),
        "/v1/jobs/{job}": JobResource(jobs),
        "/v1/jobs/{job}/runs": JobRuns(jobs),
        "/v1/jobs/{job}/{action}": JobAction(jobs),
        "/v1/job-groups/{group}/{action}": JobGroupAction(jobs),
        "/v1/job-preview": JobPreview(jobs),
        "/v1/locks": LockList(dependencies.locks),
        "/v1/locks/{lock}": LockResource(dependencies.locks),
        "/v1/locks/{lock}/release": Release(dependencies),
        "/v1/events": Events(dependencies.database, feed),
        "/v1/singletons": Singletons(cluster),
        "/v1/singletons/{singleton}": SingletonResource(cluster),
        "/v1/singletons/{singleton}/{action}": SingletonAction(dependencies),
        "/v1/plugins": Plugins(cluster, dependencies.installed),
        "/v1/plugins/reload": PluginsReload(dependencies.reload),
        "/v1/config": Configuration(configuration),
        "/v1/config/options": Options(configuration),
        "/v1/config/history": History(configuration),
        "/v1/config/rollback": Rollback(configuration),
        "/v1/config/status": ConfigurationProgress(configuration),
        "/v1/config/{group}/{option}": Option(configuration),
        "/healthz": Health(),
        "/readyz": Readiness(dependencies),
        "/metrics": Exposition(dependencies),
    }


def create_app(
    dependencies: Dependencies, *, lifespan: AbstractAsyncContextManager[Any] | None = None
) -> EngineApp:
    """The app over `dependencies`; `lifespan` is entered when the server starts, left when it stops."""
    feed = EventFeed(dependencies.database, dependencies.feed)
    opened = [lifespan] if lifespan is not None else []
    app = EngineApp(feed, middleware=[dependencies.metrics, RefusedQueries(), Lifespan(*opened, feed)])
    app.req_options.strip_url_path_trailing_slash = True
    add_error_handlers(app)
    table = routes(dependencies, feed)
    for path, resource in {"/": Index(table), "/v1": Index(table), **table}.items():
        app.add_route(path, resource)
    return app


class Lifespan:
    """Enters contexts when the server starts, and leaves them, the last one first, when it stops."""

    def __init__(self, *contexts: AbstractAsyncContextManager[Any]) -> None:
        self._contexts = contexts
        self._stack = contextlib.AsyncExitStack()

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        for context in self._contexts:
            await self._stack.enter_async_context(context)

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        await self._stack.aclose()


def from_environment(environ: Mapping[str, str] = os.environ) -> EngineApp:
    """The app as ENGINE_CONFIG_FILE configures it. For gunicorn: one a worker, after the fork."""
    file = environ.get("ENGINE_CONFIG_FILE")
    shared = options.load_shared(
        [file] if file else [], program="engine-api", process=f"api-{socket.gethostname()}-{os.getpid()}"
    )
    conf = shared.conf
    live = LiveSettings(conf)

    @contextlib.asynccontextmanager
    async def follow(session: Session) -> AsyncIterator[None]:
        async with shared.following(session), heeding_reloads(session):
            yield

    settings = DatabaseSettings.from_conf(conf)
    database = Database(
        settings.url,
        program="api",
        busy_timeout_seconds=settings.busy_timeout_seconds,
        pool_size=settings.pool_size,
    )
    cluster = ClusterWatch(options.session_settings(conf), follow=follow)
    cipher = Secrets.given(settings.secrets_key_file)
    locks = PresentLocks(lambda: cluster.session, database, name=f"api-{os.getpid()}")
    installed = options.installed_by(conf)
    drivers = frozenset(installed.names("engine.drivers"))
    tasks = load_tasks(installed.entry_points("engine.tasks"))
    calling = ApiCalls(
        live.keep(lambda: ExecutionSettings.from_values(conf.execution)),
        cluster,
        cluster_name=conf.coordination.cluster,
        shards=conf.sharding.shards,
    )
    dependencies = Dependencies(
        database=database,
        hosts=HostStore(database, drivers=drivers, secrets=cipher),
        cluster=cluster,
        commands=Submission(
            store=CommandStore(database),
            catalogue=load_commands(installed.entry_points("engine.commands")),
            locks=locks,
            bump=cluster.bump,
            shards=conf.sharding.shards,
        ),
        locks=locks,
        order=cluster.order,
        shards=conf.sharding.shards,
        drivers=drivers,
        tasks=tasks,
        feed=live.keep(lambda: feed_settings(conf)),
        catalogue=options.catalogue(installed),
        shared=lambda: SharedConfiguration(cluster.session),
        configured=lambda: shared.status,
        installed=installed,
        reload=lambda: ask_for_reload(cluster.session),
        cipher=cipher,
        calls=calling.calls,
    )
    return create_app(dependencies, lifespan=_opened(database, cluster, calling))


def feed_settings(conf: cfg.ConfigOpts) -> FeedSettings:
    """From `[api]`."""
    return FeedSettings(streams=conf.api.event_streams)


@contextlib.asynccontextmanager
async def _opened(database: Database, cluster: ClusterWatch, calling: ApiCalls) -> AsyncIterator[None]:
    async with database, cluster, calling.opened():
        yield
