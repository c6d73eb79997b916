"""The composition root of an engine: builds every part, and owns the scopes that they live in.

Scopes nest: the process (database, drivers, beat), in it one ZooKeeper session after another
(membership, ownership, singletons), in that leadership and ownership. When a session's authority
ends, all within it is cancelled, and a fresh session is opened after a jittered pause. Nothing
that acts outlives the scope that allowed it.

Run by `__main__.py`, a child of `engine.supervisor`, which hears of each session before
anything is written in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Mapping
from importlib.metadata import version

from oslo_config import cfg

from engine import options
from engine.beat import Beat
from engine.clock import utcnow
from engine.commands.catalogue import load_commands
from engine.commands.executor import CommandExecutor
from engine.commands.reactions import Reactions
from engine.commands.services import CommandLocks, Services
from engine.commands.store import CommandStore
from engine.commands.submission import Submission
from engine.config.live import LiveConfiguration
from engine.coordination.bumps import bump_inbox
from engine.coordination.identity import SessionIdentity
from engine.coordination.membership import Member, Membership, join
from engine.coordination.session import Session, open_session
from engine.db.database import Database
from engine.db.events import EventStore
from engine.db.groupcommit import GroupCommit
from engine.db.identity import identity
from engine.db.options import DatabaseSettings
from engine.errors import AuthorityLost, Fenced, Unavailable
from engine.execution.server import CallServer, Post
from engine.hosts.fleet import HostFleet
from engine.hosts.inventory.store import InventoryStore
from engine.hosts.options import MonitorSettings
from engine.hosts.store import HostStore
from engine.locks.lock import Locks
from engine.plugin import EngineId, HostDriver, Partitioner, ShardId
from engine.scheduler.loop import Scheduler
from engine.scheduler.store import FireStore
from engine.secrets import Secrets
from engine.service.calling import Calling, Visits
from engine.service.database import require_one_database, watch_database
from engine.service.jobs import JobCommands, LocalTasks, reconcile_jobs
from engine.service.metrics import serving_metrics
from engine.service.plugins import Doors
from engine.service.settings import EngineSettings
from engine.service.telling import most_telling
from engine.service.view import SelfView
from engine.sharding.hashing import shard_of
from engine.sharding.ownership import Ownership
from engine.sharding.partitioners import PartitionerContext
from engine.sharding.several import SeveralWorks
from engine.sharding.store import EpochStore
from engine.singletons.loading import load_singletons
from engine.singletons.runner import SingletonRunner
from engine.state.maps import Maps

LOG = logging.getLogger("engine.service")

ALGORITHM = 1
"""Version of the assignment; the lowest among the members is the one in force."""
REOPEN_SECONDS = (0.1, 0.3, 1.0, 2.0, 5.0)


class Service:
    """One engine process. What it is made of is read from `conf` once."""

    def __init__(self, conf: cfg.ConfigOpts, beat: Beat, *, shared: LiveConfiguration | None = None) -> None:
        """`shared` keeps `conf` as the cluster has it; without it `conf` stays as it is."""
        self.conf = conf
        self.shared = shared
        self.beat = beat
        self.name = EngineId(conf.engine.name)
        self.settings = options.session_settings(conf)
        self.stopping = asyncio.Event()
        self._drained = False
        self._told = asyncio.Event()
        self.fleet: HostFleet | None = None
        self._ownership: Ownership | None = None
        self._session: Session | None = None
        self._drivers: dict[str, HostDriver] = {}
        self._doors: Doors
        self._calling: Calling
        self._maps = Maps()
        self._secrets: Secrets
        self._installed = options.installed_by(conf)
        self._singletons: SingletonRunner
        self._fenced: asyncio.Future[frozenset[ShardId]]
        self._set = EngineSettings(conf, session_seconds=self.settings.timeout_seconds)

    @property
    def shards_owned(self) -> int:
        return len(self._ownership.owned) if self._ownership else 0

    @property
    def calls(self) -> CallServer:
        return self._calling.server

    @property
    def map_entries(self) -> Mapping[str, int]:
        return self._maps.sizes()

    def drain(self, *, drained: bool) -> None:
        """Own and lead nothing from now on, also under later sessions, but go on running; or own again."""
        self._drained = drained
        self._told.set()

    def authority_seconds(self) -> float:
        return max(0.0, self._session.authority.remaining_seconds()) if self._session else 0.0

    async def run(self) -> None:
        """Serve until `stopping` is set, then drain. Raises `InvalidInput`, `Conflict` when the
        configuration forbids to serve at all."""
        self.conf.register_mutate_hook(self._mutated)
        chosen = DatabaseSettings.from_conf(self.conf)
        self._secrets = Secrets.given(chosen.secrets_key_file)
        async with contextlib.AsyncExitStack() as stack:
            database = await stack.enter_async_context(
                Database(
                    chosen.url,
                    program=self.name,
                    busy_timeout_seconds=chosen.busy_timeout_seconds,
                    pool_size=chosen.pool_size,
                )
            )
            installed = self._installed
            for name in self.conf.engine.drivers:
                kind = installed.load_class("engine.drivers", name)
                driver: HostDriver = kind(options.driver_values(self.conf, name, kind.options))
                stack.push_async_callback(driver.close)
                self._drivers[name] = driver
            self._calling = await stack.enter_async_context(
                Calling.opened(self.conf, self.name, installed, settings=self._set.execution)
            )
            self._doors = Doors(
                database, self._calling.calls, self._maps, engine=self.name, shards=self.conf.sharding.shards
            )
            self._singletons = SingletonRunner(
                load_singletons(self.conf, installed.entry_points("engine.singletons")),
                engine=self.name,
                contexts=self._doors.context,
                settings=self._set.duties,
            )
            stack.enter_context(
                serving_metrics(self, self.conf.engine.metrics_address, self.conf.engine.metrics_port)
            )
            await self._serve(database)

    async def _serve(self, database: Database) -> None:
        """One session after another."""
        failures = 0
        while not self.stopping.is_set():
            try:
                await self._serve_session(database)
                failures = 0
            except (Unavailable, AuthorityLost, Fenced) as error:
                pause = REOPEN_SECONDS[min(failures, len(REOPEN_SECONDS) - 1)] * random.uniform(0.5, 1.5)
                failures += 1
                LOG.warning("session over: %s; a fresh one in %.1f s", error, pause)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self.stopping.wait()

    async def _serve_session(self, database: Database) -> None:
        async def tell_supervisor(identity: SessionIdentity) -> None:
            await self.beat.opened(identity, self.settings.hosts, self.settings.tls)

        await database.check_schema()
        async with open_session(self.settings, on_identity=tell_supervisor) as session:
            database.work_for(session.identity.session_id)
            try:
                member = self._member(await identity(database))
                # Joined first: whoever still has this engine's name is waited for, or told of, there.
                async with join(session, member) as membership, self._following(session):
                    require_one_database(membership)
                    self.beat.acting_under(session.authority)
                    async with session.authority.scope():
                        await self._act(database, session, membership)
            except BaseExceptionGroup as group:
                raise most_telling(group) from group
            finally:
                self.beat.acting_under(None)
        self.beat.ended(session.identity)

    def _following(self, session: Session) -> contextlib.AbstractAsyncContextManager[None]:
        return contextlib.nullcontext() if self.shared is None else self.shared.following(session)

    async def _tell_refusals(self, database: Database) -> None:
        """Values that zkCli put there and this engine refuses are an event, each once."""
        if self.shared is None:
            return
        events = EventStore(database, name="configuration", engine=self.name)
        told: Mapping[str, str] = {}
        while True:
            refused = await self.shared.refused_other_than(told)
            for key in refused.keys() - told.keys():
                option = key.replace("/", ".")
                with contextlib.suppress(Unavailable):  # the log has it, and so has /config-status
                    await events.record("configuration_refused", f"{option} is not applied: {refused[key]}")
            told = refused

    def _mutated(self, conf: cfg.ConfigOpts, changed: Mapping[tuple[str | None, str], object]) -> None:
        """Options took other values while we run: hand them to those that work with them."""
        if self.fleet is not None and any(group == "hosts" for group, _ in changed):
            self.fleet.reconfigure(MonitorSettings.from_values(conf.hosts))
        if ("engine", "weight") in changed:
            self._told.set()

    async def _heed_drains(self, membership: Membership) -> None:
        while True:
            self._told.clear()
            await membership.update(weight=self.conf.engine.weight)
            if self._drained:
                await membership.drain()
                await self._singletons.drain()
            else:
                await membership.update(state="up")
                self._singletons.undrain()
            await self._told.wait()

    def _member(self, database: str) -> Member:
        conf = self.conf
        return Member(
            engine=self.name,
            address=conf.engine.address,
            pid=os.getpid(),
            version=version("engine-ha"),
            started=utcnow(),
            state="draining" if self._drained else "up",
            weight=conf.engine.weight,
            algorithm=ALGORITHM,
            db="ok",
            shards=conf.sharding.shards,
            partitioner=conf.sharding.partitioner,
            database=database,
            calls=self._calling.url,
        )

    async def _act(self, database: Database, session: Session, membership: Membership) -> None:
        """What an engine does while it has a session."""
        conf = self.conf
        self._fenced = asyncio.get_running_loop().create_future()
        partitioner = self._partitioner(session)
        self._session = session
        reactions = Reactions()
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(partitioner.close)
            fleet = await stack.enter_async_context(
                HostFleet(
                    engine=self.name,
                    drivers=self._drivers,
                    store=HostStore(database),
                    vms=InventoryStore(database),
                    settings=MonitorSettings.from_values(conf.hosts),
                    on_fenced=self._learn_fenced,
                    on_ended=reactions.ended,
                )
            )
            work = SeveralWorks(fleet)
            ownership = await stack.enter_async_context(
                Ownership(
                    session=session,
                    membership=membership,
                    partitioner=partitioner,
                    store=EpochStore(database),
                    work=work,
                    shards=conf.sharding.shards,
                    settings=self._set.ownership,
                )
            )
            services = self._command_services(database, session, fleet, ownership.incarnation)
            executor = await stack.enter_async_context(
                CommandExecutor(
                    services,
                    on_fenced=self._learn_fenced,
                    on_told=fleet.refresh,
                )
            )
            work.add(executor)
            await stack.enter_async_context(self._singletons.attending(session))
            work.add(self._singletons.shards)
            post = await self._take_calls(stack, session, membership, ownership, fleet, executor)
            work.add(self._calling.server)
            self.fleet, self._ownership = fleet, ownership
            submission = _submission(services)
            scheduler = await stack.enter_async_context(self._scheduler(database, services, submission, post))
            work.add(scheduler)
            self._doors.open(session, membership, submission)
            self.beat.ready()
            LOG.info("serving engine=%s session=%x", self.name, session.identity.session_id)
            async with asyncio.TaskGroup() as group:
                duties = asyncio.Event()
                tasks = [
                    group.create_task(ownership.run(), name="ownership"),
                    group.create_task(watch_database(database, membership), name="database"),
                    group.create_task(self._heed_inbox(session, fleet, executor, scheduler), name="inbox"),
                    group.create_task(self._heed_fencing(), name="fencing"),
                    group.create_task(self._heed_drains(membership), name="drains"),
                    group.create_task(reactions.run(submission), name="reactions"),
                    group.create_task(self._tell_refusals(database), name="configuration"),
                    group.create_task(
                        reconcile_jobs(
                            database,
                            self._installed.entry_points("engine.jobs"),
                            shards=conf.sharding.shards,
                            bump=services.bump,
                        ),
                        name="jobs",
                    ),
                    group.create_task(
                        self._serve_singletons(session, ownership.incarnation, until=duties),
                        name="singletons",
                    ),
                ]
                await self.stopping.wait()
                LOG.info("draining engine=%s", self.name)
                await membership.drain()
                await self._singletons.drain()
                duties.set()
                await ownership.drain(session_closes=True)
                for task in tasks[:-1]:
                    task.cancel()

    async def _take_calls(
        self,
        stack: contextlib.AsyncExitStack,
        session: Session,
        membership: Membership,
        ownership: Ownership,
        fleet: HostFleet,
        executor: CommandExecutor,
    ) -> Post:
        """Clustered maps are followed, and other engines may call tasks here, until the stack is left."""
        await stack.enter_async_context(self._maps.serving(session))
        calling, reader = self._calling, self._doors.reader
        stack.enter_context(calling.whereabouts.of(membership, ownership))
        view = SelfView(
            session=session,
            ownership=ownership,
            fleet=fleet,
            executor=executor,
            singletons=self._singletons,
            calls=calling.server,
            maps=self._maps.sizes,
        )
        visits = Visits(reader, self._drivers, engine=self.name, authority=session.authority)
        post = Post(
            session=session.identity.session_id,
            authority=session.authority,
            shard_of=lambda key: shard_of(key, self.conf.sharding.shards),
            reader=reader,
            maps=self._doors.maps,
            view=view,
            connection=fleet.monitors.connection,
            visit=visits.visit,
        )
        await stack.enter_async_context(calling.server.serving(post))
        return post

    def _partitioner(self, session: Session) -> Partitioner:
        kind = self._installed.load_class("engine.partitioners", self.conf.sharding.partitioner)
        made: Partitioner = kind(
            PartitionerContext(
                engine=self.name,
                session=session,
                shards=self.conf.sharding.shards,
                untaken_seconds=lambda: self._set.ownership.untaken_seconds,
            )
        )
        return made

    async def _serve_singletons(self, session: Session, incarnation: int, *, until: asyncio.Event) -> None:
        async with self._singletons.serving(session, incarnation=incarnation):
            await until.wait()

    def _command_services(
        self, database: Database, session: Session, fleet: HostFleet, incarnation: int
    ) -> Services:
        self._set.under(session.identity.timeout_seconds)
        return Services(
            engine=self.name,
            shards=self.conf.sharding.shards,
            store=CommandStore(database),
            ledger=GroupCommit(database),
            locks=Locks(session, engine=self.name, incarnation=incarnation),
            connections=fleet.monitors,
            catalogue=load_commands(self._installed.entry_points("engine.commands")),
            bump=lambda shard: bump_inbox(session, shard, by=self.name),
            settings=self._set.commands,
            secrets=self._secrets,
        )

    def _scheduler(
        self, database: Database, services: Services, submission: Submission, post: Post
    ) -> Scheduler:
        commands = JobCommands(
            submission, bump=services.bump, engine=self.name, shards=self.conf.sharding.shards
        )
        return Scheduler(
            FireStore(database, engine=self.name, commands=commands),
            engine=self.name,
            tasks=LocalTasks(self._calling.catalogue, post, engine=self.name),
            commands=commands,
            settings=self._set.jobs,
            on_fenced=self._learn_fenced,
        )

    async def _heed_inbox(
        self, session: Session, fleet: HostFleet, executor: CommandExecutor, scheduler: Scheduler
    ) -> None:
        """Whoever changes hosts or submits commands bumps their shard's node: look at once."""
        changed: asyncio.Queue[frozenset[str]] = asyncio.Queue()
        await session.ensure(session.paths.inbox)
        async with session.replica(session.paths.inbox) as inbox:
            unsubscribe = inbox.subscribe(changed.put_nowait)
            try:
                while True:
                    names = await changed.get()
                    shards = [ShardId(int(name)) for name in names if name.isdecimal()]
                    executor.refresh(shards)
                    scheduler.refresh(shards)
                    await fleet.refresh(shards)
            finally:
                unsubscribe()

    def _learn_fenced(self, shards: frozenset[ShardId]) -> None:
        if not self._fenced.done():
            self._fenced.set_result(shards)

    async def _heed_fencing(self) -> None:
        """Whoever was fenced proves a fresh session before it claims anything again."""
        shards = await self._fenced
        raise Fenced(f"later owners were met in the database: shards {sorted(shards)[:8]}")


def _submission(services: Services) -> Submission:
    """How this engine itself asks for commands."""

    async def locks() -> CommandLocks:
        return services.locks

    return Submission(
        store=services.store,
        catalogue=services.catalogue,
        locks=locks,
        bump=services.bump,
        shards=services.shards,
    )
