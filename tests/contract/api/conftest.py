"""The app over a real database (SQLite, then PostgreSQL), and a cluster whose snapshot a test sets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from cryptography.fernet import Fernet, MultiFernet
from falcon.testing import ASGIConductor

from engine import options
from engine.api.app import create_app
from engine.api.dependencies import Dependencies
from engine.api.snapshot import ClusterSnapshot
from engine.commands.catalogue import load_commands
from engine.commands.edits import NothingIsLocked
from engine.commands.store import CommandStore
from engine.commands.submission import Submission
from engine.coordination.membership import Member
from engine.coordination.operations import Node, Stat
from engine.db.database import Database
from engine.errors import Unavailable
from engine.hosts.store import HostStore
from engine.locks.lock import Locks
from engine.plugin import EngineId, ShardId
from engine.secrets import Secrets

SHARDS = 8
STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class GivenCluster:
    """What a ClusterWatch shows, set by hand; `bumped` is what the API asked of it."""

    def __init__(self) -> None:
        self.given: ClusterSnapshot | None = None
        self.trouble = ""
        self.stale_since: datetime | None = None
        self.bumped: list[ShardId] = []

    @property
    def snapshot(self) -> ClusterSnapshot:
        if self.given is None:
            raise Unavailable("the cluster is not known yet: nobody set it")
        return self.given

    async def bump(self, shard: ShardId) -> None:
        if self.trouble:
            raise Unavailable(self.trouble)
        self.bumped.append(shard)


def node(value: object, *, version: int = 0, ctime: int = 0) -> Node:
    return Node(orjson.dumps(value), Stat(version, 1, 1, 1, ctime, ctime, 0, 0))


def member(engine: str) -> Member:
    return Member(
        engine=EngineId(engine),
        address="127.0.0.1",
        pid=4711,
        version="0.1.0",
        started=STARTED,
        state="up",
        weight=1,
        algorithm=1,
        db="ok",
        shards=SHARDS,
        partitioner="cooperative",
        session=0x1000,
    )


def two_engines() -> ClusterSnapshot:
    """Engines a and b; a owns shards 0 to 4, b owns 5 and 6, nobody owns 7."""
    shards = {f"{n:04d}": node({"engine": "a" if n < 5 else "b"}, version=n + 1) for n in range(SHARDS)}
    shards |= {f"{n:04d}/owner": node({"engine": "a" if n < 5 else "b"}, ctime=1000) for n in range(7)}
    return ClusterSnapshot.of(
        (member("b"), member("a")),
        shards,
        {"event_retention": node(None), "event_retention/x__lock__0000000000": node({"engine": "a"})},
        {
            "hosts/tick_seconds": node(3),
            "driver_vdsm/key_password": node("hunter2"),
            "database/url": node("postgresql+asyncpg://u:p@h/d"),
        },
    )


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    patience = 0.2 if migrated_url.startswith("sqlite") else 5.0  # a connection may take longer to open
    async with Database(migrated_url, busy_timeout_seconds=patience) as opened:
        yield opened


@pytest.fixture
def cluster() -> GivenCluster:
    given = GivenCluster()
    given.given = two_engines()
    return given


SECRETS = Secrets(MultiFernet([Fernet(Fernet.generate_key())]))


async def no_locks() -> Locks:
    raise NothingIsLocked("no engine has been in this cluster")


@asynccontextmanager
async def conducting(
    database: Database,
    cluster: GivenCluster,
    drivers: tuple[str, ...] = ("vdsm", "libvirt"),
    locks: Callable[[], Awaitable[Locks]] = no_locks,
    **more: Any,
) -> AsyncIterator[ASGIConductor]:
    """A client of an app over these."""
    app = create_app(
        Dependencies(
            database=database,
            hosts=HostStore(database, drivers=drivers, secrets=SECRETS),
            cluster=cluster,
            commands=Submission(
                store=CommandStore(database),
                catalogue=load_commands(),
                locks=locks,
                bump=cluster.bump,
                shards=SHARDS,
            ),
            locks=locks,
            shards=SHARDS,
            drivers=drivers,
            catalogue=options.catalogue(),
            **more,
        )
    )
    async with ASGIConductor(app) as conductor:
        yield conductor


@pytest.fixture
async def api(database: Database, cluster: GivenCluster) -> AsyncIterator[ASGIConductor]:
    async with conducting(database, cluster) as conductor:
        yield conductor
