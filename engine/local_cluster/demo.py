"""`engine demo`: the promise of the project, tried on real processes and judged by witnesses.

While fifty VMs are started and moved, it kills one engine, freezes one, freezes one together with its
supervisor and thaws both, drains one and starts one, has hosts asked more often by one change of the shared
configuration, and in the end crashes a host. After each it says
how long every moved host was unowned, which hosts that did not move lost a poll, and whether any host was
asked by two engines at once; at last, whether anything was done twice and whether any command or VM
was lost. The simulator's log is the witness of what hosts saw, ZooKeeper's ctimes of who owned them when.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx

from engine.clock import boottime
from engine.coordination.session import SessionSettings
from engine.errors import Conflict, EngineError
from engine.local_cluster.cluster import READY_SECONDS, LocalCluster
from engine.local_cluster.host_crash import HostCrash, crash_host
from engine.local_cluster.judgement import VmVerdict
from engine.local_cluster.layout import TICK_SECONDS, Layout
from engine.local_cluster.live_change import LiveChange, change_live
from engine.local_cluster.observer import Observer, Seen
from engine.local_cluster.result import Result
from engine.local_cluster.state import StateDirectory
from engine.local_cluster.timings import PERIOD_SECONDS, TICK_OF_POLLS_SECONDS, told
from engine.local_cluster.witness import Witness
from engine.local_cluster.workload import Workload, listed
from plugins.simulator.control import Simulator, open_simulator

SETTLE_SECONDS = 30.0
VMS = 50
BUSY = 3
"""A step begins when so many commands are under way: else it would show nothing of them."""
LOSSES = 3
"""On so many hosts the next answer about a start or a migration is lost in each step."""


async def run_demo(
    layout: Layout,
    directory: StateDirectory,
    *,
    patience: float = 1.0,
    progress: Callable[[str], None],
    say: Callable[[Result | LiveChange | HostCrash], None],
) -> VmVerdict:
    """Start the cluster, go through all steps, judge the VMs, stop it. Raises `Conflict`.

    `patience`: all limits of time are so many times what they are on a machine that has nothing else
    to do. Doubles and losses have no limit.
    """
    if directory.database.exists():
        raise Conflict(
            f"there is a cluster in {directory.root} already, whose VMs the demo would meet: name another"
            " --state-dir, or remove it"
        )
    progress("timings, defaults in brackets: " + ", ".join(told(layout)))
    async with LocalCluster(
        layout, directory, progress=lambda what: progress(f"starting {what} ...")
    ) as cluster:
        begun = time.monotonic()
        await cluster.ready(seconds=READY_SECONDS * patience)
        progress(
            f"{layout.hosts} hosts up on {layout.engines} engines after {time.monotonic() - begun:.1f} s"
        )
        async with (
            _watched(cluster, directory, patience) as (observer, witness),
            open_simulator(directory.simulator / "control") as simulator,
            httpx.AsyncClient(base_url=cluster.api_url, timeout=30.0) as client,
        ):
            names = [f"demo-{number:02}" for number in range(1, VMS + 1)]
            workload = Workload(client, names, patience=patience)
            await workload.start()
            demo = Demo(cluster, observer, witness, simulator, workload, patience=patience, say=say)
            async with workload.working():
                await demo.run()
                await demo.change_live(client)
                crash = await demo.crash_host(client)
                progress("waiting until every command has ended ...")
            return await witness.judge_vms(workload, simulator, excuse=crash.excuse)


@contextlib.asynccontextmanager
async def _watched(
    cluster: LocalCluster, directory: StateDirectory, patience: float
) -> AsyncIterator[tuple[Observer, Witness]]:
    """Those who judge; entered once every shard has its owner."""
    assert cluster.zookeeper is not None
    witness = Witness(
        directory.simulator / "log",
        period_seconds=PERIOD_SECONDS,
        tick_seconds=TICK_OF_POLLS_SECONDS,
        patience=patience,
    )
    settings = SessionSettings(
        hosts=cluster.zookeeper.hosts, cluster=cluster.layout.cluster, tick_seconds=TICK_SECONDS
    )
    async with Observer.watching(settings) as observer:
        engines, shards = set(cluster.engines), cluster.layout.shards
        await observer.settled(engines, shards, seconds=SETTLE_SECONDS * patience)
        yield observer, witness


class Demo:
    """The scenario over a running cluster."""

    def __init__(
        self,
        cluster: LocalCluster,
        observer: Observer,
        witness: Witness,
        simulator: Simulator,
        workload: Workload,
        *,
        patience: float,
        say: Callable[[Result | LiveChange | HostCrash], None],
    ) -> None:
        self.cluster = cluster
        self.observer = observer
        self.witness = witness
        self.simulator = simulator
        self.workload = workload
        self.patience = patience
        self.settle_seconds = SETTLE_SECONDS * patience
        self.say = say
        self.results: list[Result] = []
        self.shard_of_host: dict[int, int] = {}
        self._members: dict[str, Seen] = {}

    async def run(self) -> list[Result]:
        """All steps in order; a step that fails is told, and the next is tried all the same."""
        async with httpx.AsyncClient(base_url=self.cluster.api_url) as client:
            self.shard_of_host = {host["port"]: host["shard"] for host in await listed(client, "hosts")}
        for step in (self._kill, self._freeze, self._freeze_with_supervisor, self._drain, self._start):
            await step()
        return self.results

    async def change_live(self, client: httpx.AsyncClient) -> None:
        """Polling three times as often, in one change, while all go on."""
        log = self.cluster.directory.simulator / "log"
        self.say(await change_live(client, log, sorted(self.shard_of_host), patience=self.patience))

    async def crash_host(self, client: httpx.AsyncClient) -> HostCrash:
        """The last step: a host dies, and no engine."""
        await self.workload.busy(BUSY, seconds=self.settle_seconds)
        crash = await crash_host(client, self.simulator, self.workload.under_way, patience=self.patience)
        crash.failures += await self.witness.judge_crash(crash, client)
        self.say(crash)
        return crash

    # --- the steps ----------------------------------------------------------------------------------

    async def _kill(self) -> None:
        session = self.cluster.layout.session_seconds

        async def act(engine: str) -> None:
            self._signal_engine(engine, signal.SIGKILL)
            await self._replaced(engine)

        await self._step("SIGKILL of an engine", "engine-1", act, limit=min(1.0, session))

    async def _freeze(self) -> None:
        session = self.cluster.layout.session_seconds

        async def act(engine: str) -> None:
            self._signal_engine(engine, signal.SIGSTOP)
            await self._replaced(engine)

        # Its supervisor kills it once the authority it had when it froze is over.
        await self._step("SIGSTOP of an engine", "engine-2", act, limit=session)

    async def _freeze_with_supervisor(self) -> None:
        session = self.cluster.layout.session_seconds
        engine = "engine-3"
        supervisor = self.cluster.engines[engine]

        async def act(engine: str) -> None:
            supervisor.send(signal.SIGSTOP)
            self._signal_engine(engine, signal.SIGSTOP)
            others = set(self.cluster.engines) - {engine}
            await self.observer.settled(others, self.cluster.layout.shards, seconds=self.settle_seconds)
            self._signal_engine(engine, signal.SIGCONT)
            supervisor.send(signal.SIGCONT)
            await self._replaced(engine)

        # A server expires sessions in whole ticks.
        limit = session + TICK_SECONDS + 0.5
        await self._step("SIGSTOP of an engine and its supervisor, SIGCONT of both", engine, act, limit=limit)

    async def _drain(self) -> None:
        engine = "engine-1"
        child = self.cluster.engines.pop(engine)

        async def act(_engine: str) -> None:
            await child.stop(seconds=10)
            if child.process.returncode != 0:
                raise child.failure(f"ended with status {child.process.returncode} instead of draining")

        await self._step("drain and stop", engine, act, limit=1.0, dies=False)

    async def _start(self) -> None:
        async def act(engine: str) -> None:
            await self.cluster.start_engine(engine)

        await self._step("start of an engine", "engine-1", act, limit=1.0, dies=False)

    # --- measuring ----------------------------------------------------------------------------------

    async def _step(
        self,
        name: str,
        engine: str,
        act: Callable[[str], Awaitable[None]],
        *,
        limit: float,
        dies: bool = True,
    ) -> None:
        """Do `act`, wait until all is settled again, and judge what happened meanwhile.

        `limit`: the longest that a host may be unowned, in seconds: counted from the act where it
        ends the owner (`dies`), else from the moment at which the owner let go.
        """
        result = Result(name, engine, limit=limit * self.patience)
        before = self.observer.owners()
        self._members = self.observer.members()
        await self._lose_answers()
        try:
            await self.workload.busy(BUSY, seconds=self.settle_seconds)
        except EngineError as error:
            result.failures.append(str(error))
        result.under_way = self.workload.under_way
        begun, begun_boot = time.time(), boottime()
        try:
            await act(engine)
            expected = set(self.cluster.engines)
            await self.observer.settled(expected, self.cluster.layout.shards, seconds=self.settle_seconds)
        except (TimeoutError, EngineError, ProcessLookupError) as error:
            result.failures.append(str(error))
        result.took = time.time() - begun
        await self._judge(result, before, begun, begun_boot, dies=dies)
        self.results.append(result)
        self.say(result)

    async def _judge(
        self, result: Result, before: dict[int, str], begun: float, begun_boot: float, *, dies: bool
    ) -> None:
        stayed = []
        owners = self.observer.owners()
        for port, shard in self.shard_of_host.items():
            died = dies and before.get(shard) == result.engine
            found = self.observer.gaps(shard, since=begun, dead=died)
            result.unowned += found
            if shard not in owners:
                result.failures.append(f"host on port {port}: shard {shard} has no owner")
            elif died and not found:
                result.failures.append(f"host on port {port}: nobody took shard {shard} over")
            elif not found:
                stayed.append(port)
        if result.unowned and max(result.unowned) > result.limit:
            result.failures.append(
                f"a host was unowned for {max(result.unowned):.3f} s; the limit is {result.limit:.3f} s"
            )
        verdict = await self.witness.judge(stayed, since=begun_boot)
        result.lost_polls = [str(port) for port in verdict.lost_polls]
        result.asked_by_two = verdict.asked_by_two
        if result.lost_polls:
            result.failures.append(f"hosts that did not move lost a poll: {', '.join(result.lost_polls)}")
        if result.asked_by_two:
            result.failures.append(f"{result.asked_by_two} requests came from an owner of the past")

    async def _lose_answers(self) -> None:
        """Have the next start or migration on some hosts be carried out and not answered."""
        ports = sorted(self.cluster.host_ports)[len(self.results) :: 5][:LOSSES]
        await self.simulator.drop_replies(ports, count=1, verbs=("VM.create", "VM.migrate"))

    async def _replaced(self, engine: str) -> None:
        await self.observer.replaced(engine, self._members[engine], seconds=self.settle_seconds)

    def _signal_engine(self, engine: str, number: int) -> None:
        """Signal the engine process itself, the child of its supervisor."""
        pid = self._members[engine].pid
        fd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(fd, number)
        finally:
            os.close(fd)
