"""Three simulated hosts, a database (SQLite, then PostgreSQL) and a ZooKeeper session for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.coordination.local import LocalServer
from engine.coordination.session import SessionSettings, open_session
from engine.db.database import Database
from plugins.simulator.fleet import Fleet
from plugins.simulator.host import bound_socket
from plugins.simulator.log import WitnessLog
from plugins.simulator.machines import Pace
from plugins.simulator.site import Power, Site
from tests.contract.vms.site import VmSite


@pytest.fixture
async def site(
    tmp_path: Path, zookeeper: LocalServer, cluster_name: str, migrated_url: str
) -> AsyncIterator[VmSite]:
    settings = SessionSettings(
        hosts=zookeeper.hosts, cluster=cluster_name, tick_seconds=zookeeper.tick_seconds
    )

    async def power(port: int, action: Power) -> dict[str, Any]:
        return dict((await fleet.command("power", [port], {"action": action}))[port])

    pace = Pace(launch_seconds=0.05, boot_seconds=0.1, shutdown_seconds=0.1, migrate_seconds=0.2)
    log = WitnessLog(tmp_path / "log")
    async with (
        Database(migrated_url) as database,
        open_session(settings) as session,
        Site(log=log, pace=pace, power=power) as simulated,
    ):
        sockets = [bound_socket(0) for _ in range(3)]
        ports = [sock.getsockname()[1] for sock in sockets]
        for sock in sockets:
            sock.close()
        async with (fleet := Fleet(simulated, ports)):
            made = VmSite(list(fleet.hosts.values()), tmp_path / "log", database, session)
            await made.add_hosts()
            yield made
