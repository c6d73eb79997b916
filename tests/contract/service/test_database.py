"""What an engine tells of its database, while that and ZooKeeper come and go."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

from engine.coordination.local import LocalServer
from engine.coordination.membership import join
from engine.coordination.relay import Relay
from engine.coordination.session import open_session
from engine.db.database import Database
from engine.db.local_postgres import LocalPostgres
from engine.service.database import watch_database
from tests.contract.coordination.conftest import member, settings_for, until

SESSION_SECONDS = 10.0


async def test_a_network_that_takes_the_database_and_zookeeper_away_for_a_moment_costs_no_session(
    zookeeper: LocalServer, cluster_name: str, own_postgres: LocalPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "engine.service.database")
    with Relay() as relay:
        to_zookeeper, to_database = relay.link(zookeeper.port), relay.link(own_postgres.port)
        settings = settings_for(to_zookeeper.hosts, cluster_name, timeout_seconds=SESSION_SECONDS)
        async with (
            Database(own_postgres.url(port=to_database.port)) as database,
            open_session(settings) as session,
            join(session, member("a")) as membership,
        ):
            watching = asyncio.create_task(watch_database(database, membership))
            to_database.sever()
            to_zookeeper.sever()
            await until(lambda: watching.done() or "not told yet" in caplog.text)
            to_zookeeper.thaw()
            await until(lambda: watching.done() or membership.me.db == "down")
            to_database.thaw()
            await until(lambda: watching.done() or membership.me.db == "ok")
            session.authority.check()
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
