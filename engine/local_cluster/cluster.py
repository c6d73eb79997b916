"""Starts and stops the processes of a local cluster, in order; `engine up` and `engine demo` drive it.

Start: ZooKeeper, schema, simulated fleet, host rows, engines, API. Stop: the other way round. An
engine is named engine-1, engine-2, ...; each has a supervisor, which is our child, and whose child
it is. Everything is spawned from the main thread: the leash is bound to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

import httpx

from engine.coordination.distribution import find_zookeeper
from engine.coordination.local import LocalServer
from engine.db import migrate
from engine.db.database import Database
from engine.local_cluster.certificates import CertificateFiles, write_certificates
from engine.local_cluster.children import Child, ChildFailed, spawn
from engine.local_cluster.layout import (
    CALLERS,
    TICK_SECONDS,
    Layout,
    require_free,
    write_configuration,
)
from engine.local_cluster.state import ProcessName, StateDirectory
from engine.local_cluster.store import write_fleet
from engine.ports import free_port
from engine.processes import start_time
from engine.secrets import Secrets

LOG = logging.getLogger(__name__)

READY_SECONDS = 60.0
STOP_SECONDS = 3.0
"""For engines and API, which take about one. With `LAST_SECONDS` less than the 5 s that `up` promises."""
LAST_SECONDS = 1.5
"""For the simulator and ZooKeeper, whom nobody needs by then and who lose nothing when they are killed."""


class LocalCluster:
    """The running processes. An async context manager: entering starts all, leaving stops all."""

    def __init__(self, layout: Layout, directory: StateDirectory, *, progress: Callable[[str], None]) -> None:
        self.layout = layout
        self.directory = directory
        self.progress = progress
        self.zookeeper: LocalServer | None = None
        self.simulator: Child | None = None
        self.engines: dict[str, Child] = {}
        self.api: Child | None = None
        self.host_ports: list[int] = []
        self.api_url = ""
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self.directory.create()
            stack.enter_context(self.directory.exclusive())
            stack.push_async_callback(self._stop)
            for left in self.directory.remembered():
                left.signal(signal.SIGKILL)
            await self._start()
            self._stack = stack.pop_all()
        return self

    @property
    def database_url(self) -> str:
        return self.layout.database_url or self.directory.database_url

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        layout, directory = self.layout, self.directory
        distribution = find_zookeeper()
        require_free(layout.api_port, "the API", "--api-port")
        require_free(layout.zk_port, "ZooKeeper", "--zk-port")
        if layout.tls:
            write_certificates(directory.simulator, CALLERS)
        if not directory.secrets_key.exists():
            Secrets.make_key(directory.secrets_key)
        self.progress("ZooKeeper")
        self.zookeeper = LocalServer(
            directory.zookeeper,
            port=layout.zk_port,
            tick_ms=round(TICK_SECONDS * 1000),
            distribution=distribution,
        )
        self.zookeeper.start(wait=False)
        await migrate.upgrade(self.database_url)
        if layout.hosts:
            self.progress(f"a fleet of {layout.hosts} simulated hosts")
            await self._start_simulator()
        await self._write_hosts()
        await asyncio.to_thread(self.zookeeper.ready)
        self.progress(f"{layout.engines} engines and the API")
        for number in range(1, layout.engines + 1):
            await self.start_engine(f"engine-{number}")
        await self._start_api()
        self._remember()
        directory.write_endpoint(
            {"api": self.api_url, "zookeeper": self.zookeeper.hosts, "cluster": layout.cluster}
        )

    async def _start_simulator(self) -> None:
        layout, directory = self.layout, self.directory
        argv = [sys.executable, "-m", "plugins.simulator.main", "--hosts", str(layout.hosts)]
        argv += ["--base-port", str(layout.host_port), "--log", str(directory.simulator / "log")]
        argv += ["--control", str(directory.simulator / "control")]
        if layout.tls:
            files = CertificateFiles(directory.simulator)
            argv += ["--tls-ca", str(files.ca)]
            argv += ["--tls-cert", str(files.certificate("host")), "--tls-key", str(files.key("host"))]
        self.simulator = await spawn("simulator", argv, log=directory.log / "simulator.log", pipe=True)
        assert self.simulator.process.stdout is not None
        try:
            async with asyncio.timeout(READY_SECONDS):
                line = await self.simulator.process.stdout.readline()
        except TimeoutError:
            raise self.simulator.failure(f"was not ready within {READY_SECONDS:.0f} s") from None
        if not line:
            raise self.simulator.failure("did not start")
        ready = json.loads(line)
        self.host_ports = [port for first, last in ready["ports"] for port in range(first, last + 1)]

    async def _write_hosts(self) -> None:
        async with Database(self.database_url) as database:
            secrets = Secrets.from_file(self.directory.secrets_key)
            await write_fleet(database, self.host_ports, shards=self.layout.shards, secrets=secrets)

    async def start_engine(self, name: str) -> Child:
        """Start an engine under its supervisor; returns before it has joined."""
        assert self.zookeeper is not None
        path = write_configuration(
            self.directory.etc / f"{name}.conf",
            self.layout,
            self.directory,
            zookeeper=self.zookeeper.hosts,
            name=name,
        )
        argv = [sys.executable, "-m", "engine.supervisor", "--config-file", str(path)]
        child = await spawn(name, argv, log=self.directory.log / f"{name}.log")
        self.engines[name] = child
        self._remember()
        return child

    async def _start_api(self) -> None:
        assert self.zookeeper is not None
        path = write_configuration(
            self.directory.etc / "api.conf", self.layout, self.directory, zookeeper=self.zookeeper.hosts
        )
        port = self.layout.api_port or free_port()
        argv = [sys.executable, "-m", "gunicorn", "-c", "python:engine.api.gunicorn"]
        argv += ["--bind", f"127.0.0.1:{port}", "--workers", str(self.layout.api_workers)]
        argv += ["engine.api.app:from_environment()"]
        environment = {"ENGINE_CONFIG_FILE": str(path)}
        self.api = await spawn("api", argv, log=self.directory.log / "api.log", environment=environment)
        self.api_url = f"http://127.0.0.1:{port}"

    def next_lines(self) -> str:
        """What the user may type next."""
        assert self.zookeeper is not None
        program = os.path.join(os.path.dirname(sys.executable), "engine")
        relative = os.path.relpath(program)
        program = relative if not relative.startswith("..") else program
        return (
            "\nready. In another terminal:\n"
            f"  {program} status\n"
            f"  {program} hosts list\n"
            f"  {program} zkcli ls /engine/{self.layout.cluster}/members\n"
            f"  curl {self.api_url}/v1/hosts\n"
            f"ZooKeeper is on {self.zookeeper.hosts}, the API at {self.api_url}."
            f" Ctrl-C, or `{program} down`, stops everything.\n"
        )

    def children(self) -> list[Child]:
        return [c for c in (self.simulator, *self.engines.values(), self.api) if c is not None]

    def _remember(self) -> None:
        names = [child.name for child in self.children()]
        if self.zookeeper is not None and (pid := self.zookeeper.pid):
            names.append(ProcessName("zookeeper", pid, start_time(pid) or 0))
        self.directory.remember(names)

    async def watch(self) -> None:
        """Return never; raise `ChildFailed` when a process that should run has ended."""
        waits = {asyncio.create_task(c.process.wait(), name=f"wait-{c.role}"): c for c in self.children()}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            child = waits[done.pop()]
            raise child.failure(f"ended by itself with status {child.process.returncode}")
        finally:
            for task in waits:
                task.cancel()

    async def ready(self, *, hosts_up: bool = True, seconds: float = READY_SECONDS) -> None:
        """Wait until every engine is a member, every shard owned, and every host up."""
        last = "the API does not answer yet"
        watching = asyncio.create_task(self.watch(), name="watch-children")
        try:
            async with asyncio.timeout(seconds), httpx.AsyncClient(base_url=self.api_url) as client:
                while True:
                    if watching.done():
                        watching.result()
                    with contextlib.suppress(httpx.HTTPError):
                        last = await self._not_ready(client, hosts_up=hosts_up)
                        if not last:
                            return
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise ChildFailed(
                f"not ready within {seconds:.0f} s: {last}; logs are in {self.directory.log}"
            ) from None
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _not_ready(self, client: httpx.AsyncClient, *, hosts_up: bool) -> str:
        """What is still missing, "" when nothing is."""
        answer = await client.get("/v1/status")
        if answer.status_code != 200:
            return f"the API answers {answer.status_code}"
        status: dict[str, Any] = answer.json()
        members = len(status["members"])
        if members < len(self.engines):
            return f"{members} of {len(self.engines)} engines have joined"
        owned = status["shards"]["owned"]
        if owned < self.layout.shards:
            return f"{owned} of {self.layout.shards} shards are owned"
        up = status["hosts"].get("up", 0)
        if hosts_up and up < len(self.host_ports):
            return f"{up} of {len(self.host_ports)} hosts are up"
        return ""

    async def _stop(self) -> None:
        served = [*self.engines.values(), *([self.api] if self.api is not None else [])]
        await asyncio.gather(*(child.stop(seconds=STOP_SECONDS) for child in served))
        last: list[Coroutine[None, None, None]] = []
        if self.simulator is not None:
            last.append(self.simulator.stop(seconds=LAST_SECONDS))
        if self.zookeeper is not None:
            last.append(asyncio.to_thread(self.zookeeper.stop, LAST_SECONDS))
        await asyncio.gather(*last)
        self.directory.endpoint.unlink(missing_ok=True)
        self._remember_nothing()

    def _remember_nothing(self) -> None:
        self.directory.remember([])
