"""The composition root of an engine: builds every part, and owns the scopes that they live in.

Scopes nest: the process (`parts.py`), in it one ZooKeeper session after another (`work.py`: membership,
ownership, singletons), in that leadership and ownership. When a session's authority ends, all within it
is cancelled, and a fresh session is opened after a jittered pause. Nothing that acts outlives the scope
that allowed it.

Run by `__main__.py`, a child of `engine.supervisor`, which hears of each session before
anything is written in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

from oslo_config import cfg

from engine import options
from engine.beat import Beat
from engine.clock import boottime
from engine.commands.executor import CommandExecutor
from engine.commands.reactions import Reactions
from engine.commands.services import Services
from engine.config.live import LiveConfiguration
from engine.coordination.identity import SessionIdentity
from engine.coordination.membership import Membership, join
from engine.coordination.reopening import Reopening
from engine.coordination.session import Session, open_session
from engine.db.events import EventStore
from engine.db.identity import identity
from engine.errors import AuthorityLost, Fenced, Unavailable
from engine.execution.server import CallServer
from engine.hosts.fleet import HostFleet
from engine.plugin import EngineId
from engine.scheduler.loop import Scheduler
from engine.scope import Scope
from engine.service.database import require_one_database, watch_database
from engine.service.fencing import Fencing
from engine.service.jobs import reconcile_jobs
from engine.service.metrics import serving_metrics
from engine.service.news import heed_inbox, tell_refusals
from engine.service.parts import Parts
from engine.service.settings import EngineSettings
from engine.service.telling import most_telling
from engine.service.work import (
    command_services,
    fleet_of,
    member_of,
    ownership_of,
    partitioner_of,
    post_of,
    scheduler_of,
    settings_of_hosts,
    submission_of,
)
from engine.sharding.ownership import Ownership
from engine.sharding.several import SeveralWorks

LOG = logging.getLogger("engine.service")

_AGAIN_SECONDS = 0.5


class Service:
    """One engine process. What it is made of is read from `conf` once."""

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        beat: Beat,
        *,
        shared: LiveConfiguration | None = None,
        services: Callable[[Parts, Session, HostFleet, int], Services] = command_services,
    ) -> None:
        """`shared` keeps `conf` as the cluster has it; without it `conf` stays as it is. `services`:
        what commands are carried out with."""
        self.conf = conf
        self.shared = shared
        self.beat = beat
        self.name = EngineId(conf.engine.name)
        self.settings = options.session_settings(conf)
        self.stopping = asyncio.Event()
        self.fleet: HostFleet | None = None
        self._services = services
        self._settings = EngineSettings(conf, session_seconds=self.settings.timeout_seconds)
        self._parts: Parts
        self._ownership: Ownership | None = None
        self._session: Session | None = None
        self._drained = False
        self._told = asyncio.Event()

    # --- what is known of it ------------------------------------------------------------------------

    @property
    def shards_owned(self) -> int:
        return len(self._ownership.owned) if self._ownership else 0

    @property
    def calls(self) -> CallServer:
        return self._parts.calling.server

    @property
    def map_entries(self) -> Mapping[str, int]:
        return self._parts.maps.sizes()

    def authority_seconds(self) -> float:
        return max(0.0, self._session.authority.remaining_seconds()) if self._session else 0.0

    # --- the process --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until `stopping` is set, then drain. Raises `InvalidInput`, `Conflict` when the
        configuration forbids to serve at all."""
        self.conf.register_mutate_hook(self._mutated)
        engine = self.conf.engine
        async with Parts.opened(self.conf, self._settings, overrides=self._overrides) as self._parts:
            with serving_metrics(self, engine.metrics_address, engine.metrics_port):
                await self._serve()

    async def _serve(self) -> None:
        """One session after another."""
        reopening = Reopening()
        while not self.stopping.is_set():
            begun = boottime()
            try:
                await self._serve_session()
            except (Unavailable, AuthorityLost, Fenced) as error:
                pause = reopening.pause_seconds(boottime() - begun)
                LOG.warning("session over: %s; a fresh one in %.1f s", error, pause)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self.stopping.wait()

    def _mutated(self, conf: cfg.ConfigOpts, changed: Mapping[tuple[str | None, str], object]) -> None:
        """Options took other values while we run: hand them to those that work with them."""
        if self.fleet is not None and any((group or "").partition("@")[0] == "hosts" for group, _ in changed):
            self.fleet.reconfigure(*settings_of_hosts(self._parts))
        if ("engine", "weight") in changed:
            self._told.set()

    def _overrides(self, group: str) -> Mapping[str, Mapping[str, Any]]:
        return self.shared.overrides(group) if self.shared is not None else {}

    def drain(self, *, drained: bool) -> None:
        """Own and lead nothing from now on, also under later sessions, but go on running; or own again."""
        self._drained = drained
        self._told.set()

    # --- a session ----------------------------------------------------------------------------------

    async def _serve_session(self) -> None:
        async def tell_supervisor(identity: SessionIdentity) -> None:
            await self.beat.opened(identity, self.settings.hosts, self.settings.tls)

        database = self._parts.database
        await database.check_schema()
        async with open_session(self.settings, on_identity=tell_supervisor) as session:
            database.work_for(session.identity.session_id)
            try:
                me = member_of(self._parts, database=await identity(database), drained=self._drained)
                # Joined first: whoever still has this engine's name is waited for, or told of, there.
                async with join(session, me) as membership, self._following(session):
                    require_one_database(membership)
                    self.beat.acting_under(session.authority)
                    async with session.authority.scope():
                        await self._act(session, membership)
            except BaseExceptionGroup as group:
                raise most_telling(group) from group
            finally:
                self.beat.acting_under(None)
        self.beat.ended(session.identity)

    def _following(self, session: Session) -> contextlib.AbstractAsyncContextManager[None]:
        return contextlib.nullcontext() if self.shared is None else self.shared.following(session)

    async def _act(self, session: Session, membership: Membership) -> None:
        """What an engine does while it has a session."""
        parts, fencing, reactions = self._parts, Fencing(), Reactions()
        partitioner = partitioner_of(parts, session)
        self._session = session
        async with contextlib.AsyncExitStack() as stack:
            enter = stack.enter_async_context
            stack.push_async_callback(partitioner.close)
            # Known from its first moment on: what is changed meanwhile has to reach it.
            self.fleet = fleet = fleet_of(parts, fencing, reactions)
            await enter(fleet)
            work = SeveralWorks(fleet)
            self._ownership = ownership = ownership_of(parts, session, membership, partitioner, work)
            await enter(ownership)
            services = self._services(parts, session, fleet, ownership.incarnation)
            submission = submission_of(services)
            executor = CommandExecutor(services, on_fenced=fencing.learn, on_told=fleet.refresh)
            work.add(await enter(executor))
            await enter(parts.singletons.attending(session))
            work.add(parts.singletons.shards)
            await enter(parts.maps.serving(session))
            stack.enter_context(parts.calling.whereabouts.of(membership, ownership))
            post = post_of(parts, session, ownership, fleet, executor)
            await enter(parts.calling.server.serving(post))
            work.add(parts.calling.server)
            scheduler = scheduler_of(parts, services, submission, post, fencing)
            work.add(await enter(scheduler))
            parts.doors.open(session, membership, submission)
            self.beat.ready()
            LOG.info("serving engine=%s session=%x", self.name, session.identity.session_id)
            async with Scope() as scope:
                scope.keep(ownership.run, name="ownership")
                scope.keep(fencing.heed, name="fencing")
                scope.keep(lambda: reactions.run(submission), name="reactions")
                self._keep_heeding(scope, session, membership, executor, scheduler)
                await self._serve_duties(scope, session, membership, ownership, services)

    def _keep_heeding(
        self,
        scope: Scope,
        session: Session,
        membership: Membership,
        executor: CommandExecutor,
        scheduler: Scheduler,
    ) -> None:
        """What others do or want is heeded until `scope` is left."""
        fleet, shared, database = self.fleet, self.shared, self._parts.database
        assert fleet is not None
        scope.keep(lambda: watch_database(database, membership), name="database")
        scope.keep(lambda: heed_inbox(session, fleet, executor, scheduler), name="inbox")
        scope.keep(lambda: self._heed_wishes(membership), name="drains")
        if shared is not None:
            events = EventStore(database, name="configuration", engine=self.name)
            scope.keep(lambda: tell_refusals(shared, events), name="configuration")

    async def _heed_wishes(self, membership: Membership) -> None:
        """Draining and weight, at the beginning and whenever they change."""
        while True:
            self._told.clear()
            try:
                await self._tell_wishes(membership)
            except Unavailable as error:
                LOG.info("what is wished of this engine is told a little later: %s", error)
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                await self._told.wait()

    async def _tell_wishes(self, membership: Membership) -> None:
        await membership.update(weight=self.conf.engine.weight)
        if self._drained:
            await membership.drain()
            await self._parts.singletons.drain()
        else:
            await membership.update(state="up")
            self._parts.singletons.undrain()

    async def _serve_duties(
        self,
        scope: Scope,
        session: Session,
        membership: Membership,
        ownership: Ownership,
        services: Services,
    ) -> None:
        """Own and lead until told to stop; then hand over what is led, and after it what is owned."""
        parts, over = self._parts, asyncio.Event()

        async def lead() -> None:
            async with parts.singletons.serving(session, incarnation=ownership.incarnation):
                await over.wait()

        declared = parts.installed.entry_points("engine.jobs")
        jobs = reconcile_jobs(parts.database, declared, shards=parts.shards, bump=services.bump)
        reconciling = scope.start(jobs, name="jobs")
        scope.start(lead(), name="singletons")
        await self.stopping.wait()
        LOG.info("draining engine=%s", self.name)
        await membership.drain()
        await parts.singletons.drain()
        over.set()
        await ownership.drain(session_closes=True)
        reconciling.cancel()
