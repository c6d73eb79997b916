"""Event retention on a real ZooKeeper and a real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from importlib.metadata import EntryPoint

import pytest
from oslo_config import cfg

from engine.clock import utcnow
from engine.coordination.local import LocalServer
from engine.db import events
from engine.db.database import Database
from engine.election.campaign import Campaign
from engine.errors import AuthorityLost, Fenced
from engine.plugin import EngineId
from engine.singletons.loading import NAMESPACE, load_singletons
from engine.singletons.runner import SingletonRunner
from engine.testing.singletons import RecordedEvents, context, leadership
from tests.contract.election.members import member

ENTRY = EntryPoint("event_retention", "plugins.singletons.event_retention:EventRetention", NAMESPACE)


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    async with Database(migrated_url) as opened:
        yield opened


async def store(database: Database, *, old: int, recent: int) -> None:
    now = utcnow()
    made = [events.NewEvent(kind="old", message="", at=now - timedelta(days=40)) for _ in range(old)]
    made += [events.NewEvent(kind="recent", message="", at=now - timedelta(days=2)) for _ in range(recent)]
    async with database.writing() as connection:
        await events.record_all(connection, made)


async def kinds(database: Database) -> list[str]:
    async with database.reading() as connection:
        return [event.kind for event in await events.page(connection, limit=10_000)]


async def test_the_leader_deletes_what_is_too_old_and_says_so(
    zookeeper: LocalServer, cluster_name: str, database: Database
) -> None:
    await store(database, old=2300, recent=5)
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[])
    runner = SingletonRunner(
        load_singletons(conf, [ENTRY]),
        engine=EngineId("e1"),
        contexts=lambda plugin: replace(
            context(plugin.factory, {}, RecordedEvents()),
            engine=EngineId("e1"),
            options=plugin.values,
            events=events.EventStore(database, name=plugin.name, engine=EngineId("e1")),
        ),
    )
    async with (
        member(zookeeper, cluster_name, "e1") as session,
        runner.serving(session, incarnation=1),
        asyncio.timeout(30),
    ):
        while "events_pruned" not in await kinds(database):
            pass
    assert sorted(await kinds(database)) == ["events_pruned", *["recent"] * 5]


async def test_what_a_former_leader_prunes_is_fenced_and_deletes_nothing(
    zookeeper: LocalServer, cluster_name: str, database: Database
) -> None:
    await store(database, old=3, recent=0)
    log = events.EventStore(database, name="event_retention")
    tokens = []
    async with member(zookeeper, cluster_name, "e1") as session:
        for _ in range(2):
            campaign = Campaign(session, "event_retention", engine=EngineId("e1"), incarnation=1)
            async with campaign.leading() as held:
                tokens.append(held.token)
                await log.prune(older_than=utcnow() - timedelta(days=365), limit=10, leadership=held)
        # Frozen before its write and thawed later: it believes that it leads, its token tells.
        former = leadership(token=tokens[0])
        with pytest.raises(Fenced):
            await log.prune(older_than=utcnow(), limit=10, leadership=former)
        with pytest.raises(AuthorityLost):
            await log.prune(older_than=utcnow(), limit=10, leadership=held)
    assert await kinds(database) == ["old"] * 3
