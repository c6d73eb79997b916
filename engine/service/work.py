"""What an engine works with under one session, each part built from those before it.

Invariant: whatever is made here acts only under the session it was made with, and is made anew with the
next. The composition root calls these in order and owns the scopes that the parts live in.
"""

from __future__ import annotations

import os
from importlib.metadata import version

from engine.clock import utcnow
from engine.commands.catalogue import load_commands
from engine.commands.executor import CommandExecutor
from engine.commands.reactions import Reactions
from engine.commands.services import CommandLocks, Services
from engine.commands.store import CommandStore
from engine.commands.submission import Submission
from engine.coordination.bumps import bump_inbox
from engine.coordination.membership import Member, Membership
from engine.coordination.session import Session
from engine.db.groupcommit import GroupCommit
from engine.execution.server import Post
from engine.hosts import options as host_options
from engine.hosts.fleet import HostFleet
from engine.hosts.options import MonitorSettings
from engine.hosts.owned.store import OwnedHostStore
from engine.hosts.owned.vms.store import OwnedVmStore
from engine.locks.lock import Locks
from engine.plugin import ClusterId, Partitioner
from engine.scheduler.loop import Scheduler
from engine.scheduler.store import FireStore
from engine.service.calling import Visits
from engine.service.fencing import Fencing
from engine.service.jobs import JobCommands, LocalTasks
from engine.service.parts import Parts
from engine.service.view import SelfView
from engine.sharding.hashing import shard_of
from engine.sharding.ownership import Ownership
from engine.sharding.partitioners import PartitionerContext
from engine.sharding.store import EpochStore
from engine.sharding.tenure import ShardWork

ALGORITHM = 1
"""Version of the assignment; the lowest among the members is the one in force."""


def member_of(parts: Parts, *, database: str, drained: bool) -> Member:
    """What this engine says of itself. `database`: which one it works on."""
    conf = parts.conf
    return Member(
        engine=parts.name,
        address=conf.engine.address,
        pid=os.getpid(),
        version=version("engine-ha"),
        started=utcnow(),
        state="draining" if drained else "up",
        weight=conf.engine.weight,
        algorithm=ALGORITHM,
        db="ok",
        shards=parts.shards,
        partitioner=conf.sharding.partitioner,
        database=database,
        calls=parts.calling.url,
    )


def partitioner_of(parts: Parts, session: Session) -> Partitioner:
    kind = parts.installed.load_class("engine.partitioners", parts.conf.sharding.partitioner)
    made: Partitioner = kind(
        PartitionerContext(
            engine=parts.name,
            session=session,
            shards=parts.shards,
            untaken_seconds=lambda: parts.settings.ownership.untaken_seconds,
        )
    )
    return made


def settings_of_hosts(parts: Parts) -> tuple[MonitorSettings, dict[ClusterId, MonitorSettings]]:
    """The fleet's own, and those of host clusters that have settings of their own."""
    base = {option.dest: parts.conf.hosts[option.dest] for option in host_options.OPTS}
    of_clusters = {
        ClusterId(cluster): MonitorSettings.from_values({**base, **own})
        for cluster, own in parts.overrides(host_options.GROUP).items()
    }
    return MonitorSettings.from_values(base), of_clusters


def fleet_of(parts: Parts, fencing: Fencing, reactions: Reactions) -> HostFleet:
    settings, of_clusters = settings_of_hosts(parts)
    return HostFleet(
        engine=parts.name,
        drivers=parts.drivers,
        store=OwnedHostStore(parts.database),
        vms=OwnedVmStore(parts.database),
        settings=settings,
        clusters=of_clusters,
        on_fenced=fencing.learn,
        on_ended=reactions.ended,
    )


def ownership_of(
    parts: Parts, session: Session, membership: Membership, partitioner: Partitioner, work: ShardWork
) -> Ownership:
    return Ownership(
        session=session,
        membership=membership,
        partitioner=partitioner,
        store=EpochStore(parts.database),
        work=work,
        shards=parts.shards,
        settings=parts.settings.ownership,
    )


def command_services(parts: Parts, session: Session, fleet: HostFleet, incarnation: int) -> Services:
    """What commands are carried out with."""
    parts.settings.under(session.identity.timeout_seconds)
    return Services(
        engine=parts.name,
        shards=parts.shards,
        store=CommandStore(parts.database),
        ledger=GroupCommit(parts.database),
        locks=Locks(session, engine=parts.name, incarnation=incarnation),
        connections=fleet.monitors,
        catalogue=load_commands(parts.installed.entry_points("engine.commands")),
        bump=lambda shard: bump_inbox(session, shard, by=parts.name),
        settings=parts.settings.commands,
        secrets=parts.secrets,
    )


def submission_of(services: Services) -> Submission:
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


def post_of(
    parts: Parts, session: Session, ownership: Ownership, fleet: HostFleet, executor: CommandExecutor
) -> Post:
    """What tasks that run here are given."""
    reader = parts.doors.reader
    visits = Visits(reader, parts.drivers, engine=parts.name, authority=session.authority)
    view = SelfView(
        session=session,
        ownership=ownership,
        fleet=fleet,
        executor=executor,
        singletons=parts.singletons,
        calls=parts.calling.server,
        maps=parts.maps.sizes,
    )
    return Post(
        session=session.identity.session_id,
        authority=session.authority,
        shard_of=lambda key: shard_of(key, parts.shards),
        reader=reader,
        maps=parts.maps,
        view=view,
        connection=fleet.monitors.connection,
        visit=visits.visit,
    )


def scheduler_of(
    parts: Parts, services: Services, submission: Submission, post: Post, fencing: Fencing
) -> Scheduler:
    commands = JobCommands(submission, bump=services.bump, engine=parts.name, shards=parts.shards)
    return Scheduler(
        FireStore(parts.database, engine=parts.name, commands=commands),
        engine=parts.name,
        tasks=LocalTasks(parts.calling.catalogue, post, engine=parts.name),
        commands=commands,
        settings=parts.settings.jobs,
        on_fenced=fencing.learn,
    )
