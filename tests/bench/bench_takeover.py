"""How soon the commands of a dead engine are in other hands: real processes on PostgreSQL, or SQLite.

    engine      SIGKILL of an engine that runs --commands of them; its supervisor closes its session
    supervisor  SIGKILL of an engine and its supervisor; ZooKeeper's session timeout decides

From the kill until the last of its commands has been claimed by another engine. All of them are runs
of VMs on hosts that lose the answer, so each has a verb under way; at the end each VM was created
once. Prints `name: value unit`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from engine.clock import boottime
from engine.db.database import Database
from engine.db.local_postgres import LocalPostgres
from engine.db.tables import command, step
from engine.local_cluster.cluster import LocalCluster
from engine.local_cluster.layout import Layout
from engine.local_cluster.state import StateDirectory
from plugins.simulator.control import open_simulator
from plugins.simulator.log import read_requests

LOOK_SECONDS = 0.01
END_SECONDS = 180.0
READY_SECONDS = 180.0
UNDER_WAY_SECONDS = 50.0
"""Hosts carry each create out and lose its answer, so the engine waits for it for the step's timeout. Within
that all are to be under way."""


def say(name: str, value: float, unit: str, note: str = "") -> None:
    print(f"{name}: {value:.1f} {unit}{'  # ' + note if note else ''}", flush=True)


class Trial:
    """One running cluster, whose commands are read from its database."""

    def __init__(self, cluster: LocalCluster, database: Database, http: httpx.AsyncClient) -> None:
        self.cluster = cluster
        self.database = database
        self.http = http

    async def run(self, commands: int, *, with_supervisor: bool) -> tuple[int, float]:
        """How many commands the victim had, and seconds until the last one had another engine."""
        engine = "engine-1"
        await self._submit(commands, engine)
        async with asyncio.timeout(UNDER_WAY_SECONDS):
            while await self._running_on(engine) < commands:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_SECONDS)
        members = (await self.http.get("/v1/members")).json()["members"]
        pid = next(member["pid"] for member in members if member["engine"] == engine)
        child = self.cluster.engines[engine]
        if with_supervisor:
            child.send(signal.SIGSTOP)
        mine = {row.id: row.epoch for row in await self._open() if row.engine == engine}
        at = boottime()
        os.kill(pid, signal.SIGKILL)
        if with_supervisor:
            await child.kill()
        while any(mine.get(row.id) == row.epoch for row in await self._open()):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)
        taken = boottime() - at
        await self._all_end()
        return len(mine), taken

    async def _submit(self, number: int, engine: str) -> None:
        """Runs of as many VMs, on the hosts of this engine."""
        page = (await self.http.get("/v1/hosts?limit=1000")).json()
        mine = [host["name"] for host in page["hosts"] if host["owner"] == engine]
        limit = asyncio.Semaphore(16)

        async def one(name: str) -> None:
            async with limit:
                vm = {"name": name, "memory_bytes": 2**26}
                (await self.http.post("/v1/vms", json=vm)).raise_for_status()

        async def start(name: str, host: str) -> None:
            async with limit:
                (await self.http.post(f"/v1/vms/{name}/run", json={"host": host})).raise_for_status()

        names = [f"vm-{each}" for each in range(number)]
        await asyncio.gather(*map(one, names))
        async with open_simulator(self.cluster.directory.simulator / "control") as simulator:
            await simulator.drop_replies(None, verbs=("VM.create",))
        await asyncio.gather(*map(start, names, itertools.cycle(mine)))

    async def _open(self) -> list[Any]:
        query = sa.select(command.c.id, command.c.engine, command.c.epoch)
        async with self.database.reading() as connection:
            return list(await connection.execute(query.where(command.c.ended_at.is_(None))))

    async def _running_on(self, engine: str) -> int:
        """How many it has claimed that have a create under way."""
        query = sa.select(sa.func.count()).select_from(command.join(step, step.c.command_id == command.c.id))
        query = query.where(command.c.engine == engine, step.c.name == "create", step.c.state == "intended")
        async with self.database.reading() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def _all_end(self) -> None:
        async with open_simulator(self.cluster.directory.simulator / "control") as simulator:
            await simulator.clear(None)
        async with asyncio.timeout(END_SECONDS):
            while await self._open():  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        created = [
            r.op for r in read_requests(self.cluster.directory.simulator / "log") if r.verb == "VM.create"
        ]
        doubled = [op for op, times in Counter(created).items() if times > 1]
        if doubled:
            raise RuntimeError(f"{len(doubled)} creates were sent twice")


@contextlib.asynccontextmanager
async def database_url(kind: str) -> AsyncIterator[str | None]:
    if kind == "sqlite":
        yield None
        return
    with LocalPostgres(durable=False) as server:
        yield server.url()


async def trial(arguments: argparse.Namespace, *, with_supervisor: bool) -> tuple[int, float]:
    async with database_url(arguments.database) as url:
        layout = Layout(
            hosts=arguments.hosts, api_port=0, zk_port=0, host_port=0, tick_seconds=1.0, database_url=url
        )
        with tempfile.TemporaryDirectory(prefix="engine-bench-") as path:
            async with LocalCluster(layout, StateDirectory(Path(path)), progress=lambda _: None) as cluster:
                await cluster.ready(seconds=READY_SECONDS)
                async with (
                    Database(cluster.database_url) as database,
                    httpx.AsyncClient(base_url=cluster.api_url, timeout=60, trust_env=False) as http,
                ):
                    run = Trial(cluster, database, http)
                    return await run.run(arguments.commands, with_supervisor=with_supervisor)


async def run(arguments: argparse.Namespace) -> None:
    for part, name, target in (
        ("engine", "takeover.supervised", 1000.0),
        ("supervisor", "takeover.supervisor_killed_too", Layout().session_seconds * 1000 + 1000),
    ):
        if part in arguments.only.split(","):
            commands, seconds = await trial(arguments, with_supervisor=part == "supervisor")
            note = f"commands={commands} database={arguments.database} target={target:.0f}"
            say(f"{name}.last_command", seconds * 1000, "ms", note)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="engine,supervisor", help="comma list of parts")
    parser.add_argument("--commands", type=int, default=200, help="that the victim runs")
    parser.add_argument("--hosts", type=int, default=24)
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    asyncio.run(run(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
