"""A cluster of mortal engines under test: asked through its API, judged by the simulator's log."""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import os
import signal
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from engine.clock import boottime
from engine.local_cluster.children import Child, spawn
from engine.local_cluster.cluster import LocalCluster
from engine.local_cluster.layout import Layout, write_configuration
from engine.local_cluster.state import StateDirectory
from plugins.simulator.control import Simulator, open_simulator
from plugins.simulator.log import Request, read_requests
from tests.cluster import mortal
from tests.cluster.latelink import LateLink

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 120.0
READY_SECONDS = 180.0
QUARANTINE_SECONDS = 1.0
Json = dict[str, Any]


class MortalCluster(LocalCluster):
    """Its engines die and freeze as `tests.cluster.mortal` tells."""

    hide_operations = False
    link: LateLink | None = None
    quarantine_seconds = QUARANTINE_SECONDS

    links: contextlib.AsyncExitStack
    agents: dict[int, int]
    """The agent's own port, by the one that engines know."""

    @property
    def deaths(self) -> Path:
        return self.directory.root / "deaths"

    async def start_engine(self, name: str) -> Child:
        assert self.zookeeper is not None
        self.deaths.mkdir(exist_ok=True)
        path = write_configuration(
            self.directory.etc / f"{name}.conf",
            self.layout,
            self.directory,
            zookeeper=self.zookeeper.hosts,
            name=name,
        )
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(path)
        parser.read_dict({"commands": {"quarantine_seconds": str(self.quarantine_seconds)}})
        with path.open("w") as file:
            parser.write(file)
        argv = [sys.executable, "-m", "tests.cluster.mortal", "--supervise", "--config-file", str(path)]
        environment = {mortal.DEATHS: str(self.deaths), "PYTHONPATH": str(ROOT)}
        if self.hide_operations:
            environment[mortal.HIDE] = "1"
        log = self.directory.log / f"{name}.log"
        child = await spawn(name, argv, log=log, environment=environment)
        self.engines[name] = child
        return child

    async def _write_hosts(self) -> None:
        """Hosts are reached over the link, if there is one."""
        agents = self.host_ports
        if self.link is not None:
            self.host_ports = await self.links.enter_async_context(self.link.to(agents))
        self.agents = dict(zip(self.host_ports, agents, strict=True))
        await super()._write_hosts()


class Lab:
    """What tests ask of the cluster and wait for."""

    def __init__(self, cluster: MortalCluster, http: httpx.AsyncClient, simulator: Simulator) -> None:
        self.cluster = cluster
        self.http = http
        self.simulator = simulator
        self.since = 0.0

    # --- deaths -----------------------------------------------------------------------------------

    def doom(self, command: str, step: str, boundary: str, *, how: str = "kill") -> None:
        """The engine that comes to this boundary next dies there."""
        draft = self.cluster.deaths / "draft"
        draft.write_text(how)
        draft.rename(self.cluster.deaths / f"{command}.{step}.{boundary}")

    def doomed(self) -> list[str]:
        """Deaths that have not happened yet."""
        return [path.name for path in self.cluster.deaths.iterdir() if not path.name.endswith("-done")]

    async def kill(self, engine: str) -> None:
        """SIGKILL of the engine alone; its supervisor lives."""
        members = (await self.get("/v1/members"))["members"]
        os.kill(next(m["pid"] for m in members if m["engine"] == engine), signal.SIGKILL)

    def frozen(self) -> str | None:
        """The engine whose supervisor has been stopped."""
        for name, child in self.cluster.engines.items():
            if Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                return name
        return None

    def thaw(self, engine: str) -> None:
        """The engine first: its supervisor would end it at once."""
        supervisor = self.cluster.engines[engine].pid
        children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
        for pid in (*map(int, children), supervisor):
            os.kill(pid, signal.SIGCONT)

    # --- the API ----------------------------------------------------------------------------------

    async def get(self, path: str) -> Json:
        """What is there; asked again while the API knows no better."""
        while True:
            try:
                response = await self.http.get(path)
            except httpx.TransportError:
                response = None
            if response is not None and response.status_code < 500:
                return dict(response.raise_for_status().json())
            await asyncio.sleep(0.1)

    async def post(self, path: str, body: Mapping[str, Any] | None = None) -> Json:
        """Asked again while the API cannot, as the same request."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        answers: list[httpx.Response] = []

        async def answered() -> bool:
            with contextlib.suppress(httpx.TransportError):
                answers.append(await self.http.post(path, json=dict(body or {}), headers=headers))
            return bool(answers) and answers[-1].status_code != 503

        await self.until(answered, what=f"{path} is answered: {answers}")
        response = answers[-1]
        assert response.is_success, f"{path}: {response.status_code} {response.text}"
        return dict(response.json())

    async def unlocked(self) -> None:
        """Nothing is locked; what an engine asked for by itself is done, too."""

        async def none_left() -> bool:
            return not (await self.get("/v1/locks"))["locks"]

        await self.until(none_left, what="nothing is locked")

    async def ended(self, command: Json) -> Json:
        """The command at its end, or where it needs an operator."""
        found: Json = {}

        async def over() -> bool:
            found.update(await self.get(f"/v1/commands/{command['id']}"))
            return bool(found["ended_at"]) or found["state"] == "needs_operator"

        await self.until(over, what=f"it ends: {found}")
        return found

    async def do(self, path: str, body: Mapping[str, Any] | None = None) -> Json:
        """Ask and wait for the end, which has to be a success."""
        await self.unlocked()
        end = await self.ended(await self.post(path, body))
        assert end["state"] == "succeeded", end
        await self.free(end)
        return end

    async def free(self, command: Json) -> None:
        """Its locks are gone a moment after its end."""

        async def gone() -> bool:
            locks = (await self.get("/v1/locks"))["locks"]
            return all(lock.get("command") != command["id"] for lock in locks)

        await self.until(gone, what=f"the locks of {command['id']} are gone")

    async def vm(self, name: str) -> Json:
        return await self.get(f"/v1/vms/{name}")

    async def vm_is(self, name: str, *statuses: str) -> Json:
        found: Json = {}

        async def there() -> bool:
            found.update(await self.vm(name))
            return found["status"] in statuses

        await self.until(there, what=f"{name} is {statuses}")
        return found

    async def host_is(self, name: str, *statuses: str) -> Json:
        found: Json = {}

        async def there() -> bool:
            found.update(await self.get(f"/v1/hosts/{name}"))
            return found["status"] in statuses

        await self.until(there, what=f"{name} is {statuses}")
        return found

    async def until(
        self, condition: Callable[[], Awaitable[bool]], *, seconds: float = DEADLINE_SECONDS, what: str = ""
    ) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not await condition():  # noqa: ASYNC110 - other processes have no event
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"not within {seconds} s: {what}") from None

    # --- the witness ------------------------------------------------------------------------------

    def begin(self) -> None:
        """What is counted begins now."""
        self.since = boottime()

    def asked(self, verb: str | None = None) -> list[Request]:
        requests = read_requests(self.cluster.directory.simulator / "log")
        return [r for r in requests if r.t >= self.since and (verb is None or r.verb == verb)]

    def counts(self) -> Counter[str]:
        return Counter(request.verb for request in self.asked())

    async def running(self, vm_id: str) -> list[int]:
        """The hosts (ports) on which it runs, in truth."""
        there = await self.simulator.vms()
        return [port for port, vms in there.items() if vms.get(vm_id, "Down") != "Down"]


@contextlib.asynccontextmanager
async def laboratory(
    directory: Path,
    *,
    engines: int = 3,
    hosts: int = 4,
    database_url: str | None = None,
    hide_operations: bool = False,
    quarantine_seconds: float = QUARANTINE_SECONDS,
    link: LateLink | None = None,
    **layout: Any,
) -> AsyncIterator[Lab]:
    """A ready cluster, its engines mortal."""
    settings = Layout(
        engines=engines,
        hosts=hosts,
        api_port=0,
        zk_port=0,
        host_port=0,
        shards=32,
        tick_seconds=0.3,
        statistics_seconds=0.6,
        database_url=database_url,
        **layout,
    )
    cluster = MortalCluster(settings, StateDirectory(directory), progress=lambda _: None)
    cluster.hide_operations = hide_operations
    cluster.quarantine_seconds = quarantine_seconds
    cluster.link = link
    async with contextlib.AsyncExitStack() as cluster.links, cluster:
        await cluster.ready(seconds=READY_SECONDS)
        async with (
            httpx.AsyncClient(base_url=cluster.api_url, timeout=30.0, trust_env=False) as http,
            open_simulator(cluster.directory.simulator / "control") as simulator,
        ):
            yield Lab(cluster, http, simulator)
