"""`engine demo`: the promise of the project, tried on real processes and judged by witnesses.

Kills one engine, freezes one, freezes one together with its supervisor and thaws both, drains one
and starts one, while the others go on. After each it says how long every moved host was unowned,
which hosts that did not move lost a poll, and whether any host was asked by two engines at once.
The simulator's log is the witness of what hosts saw, ZooKeeper's ctimes of who owned them when.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import httpx

from engine.clock import boottime
from engine.coordination.session import SessionSettings
from engine.errors import EngineError
from engine.local_cluster.cluster import LocalCluster
from engine.local_cluster.layout import TICK_SECONDS, Layout
from engine.local_cluster.observer import Observer, Seen
from engine.local_cluster.state import StateDirectory
from engine.local_cluster.witness import Witness

SETTLE_SECONDS = 30.0
TICK_OF_POLLS_SECONDS = 1.0
PERIOD_SECONDS = 3.0
"""The demo asks hosts oftener than the defaults (3 and 15 s) do, so that a lost poll shows at once."""


@dataclass(slots=True)
class Result:
    """What one step did. Seconds; `unowned` holds one figure for each move of a host."""

    step: str
    engine: str
    took: float = 0.0
    unowned: list[float] = field(default_factory=list)
    limit: float = 0.0
    lost_polls: list[str] = field(default_factory=list)
    asked_by_two: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.failures

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"{'ok  ' if self.ok else 'FAIL'} {self.step} ({self.engine}), settled after {self.took:.1f} s"
        ]
        if self.unowned:
            lines.append(
                f"     {len(self.unowned)} moves of hosts; unowned for {median(self.unowned) * 1000:.0f} ms"
                f" (median), {max(self.unowned) * 1000:.0f} ms (most), limit {self.limit * 1000:.0f} ms"
            )
        lines.append(
            f"     {len(self.lost_polls)} hosts that did not move lost a poll;"
            f" {self.asked_by_two} requests by an owner of the past"
        )
        return lines + [f"     {failure}" for failure in self.failures]

    def summary(self) -> dict[str, Any]:
        """For JSON: all fields, the unowned times summed up."""
        shown = asdict(self)
        shown["unowned"] = {
            "moves": len(self.unowned),
            "median": median(self.unowned) if self.unowned else 0.0,
            "max": max(self.unowned, default=0.0),
        }
        shown["ok"] = self.ok
        return shown


def demo_layout(*, hosts: int, tls: bool) -> Layout:
    """What `engine demo` runs: free ports, and polls that are close together."""
    return Layout(
        engines=3,
        hosts=hosts,
        api_port=0,
        zk_port=0,
        host_port=0,
        api_workers=1,
        tick_seconds=TICK_OF_POLLS_SECONDS,
        statistics_seconds=PERIOD_SECONDS,
        tls=tls,
    )


async def run_demo(
    layout: Layout,
    directory: StateDirectory,
    *,
    progress: Callable[[str], None],
    say: Callable[[Result], None],
) -> None:
    """Start the cluster, go through all steps, stop it."""
    async with LocalCluster(
        layout, directory, progress=lambda what: progress(f"starting {what} ...")
    ) as cluster:
        begun = time.monotonic()
        await cluster.ready()
        progress(
            f"{layout.hosts} hosts up on {layout.engines} engines after {time.monotonic() - begun:.1f} s;"
            f" session {layout.session_seconds:g} s, polls each {PERIOD_SECONDS:g} s"
        )
        assert cluster.zookeeper is not None
        settings = SessionSettings(
            hosts=cluster.zookeeper.hosts, cluster=layout.cluster, tick_seconds=TICK_SECONDS
        )
        witness = Witness(
            directory.simulator / "log", period_seconds=PERIOD_SECONDS, tick_seconds=TICK_OF_POLLS_SECONDS
        )
        async with Observer.watching(settings) as observer:
            await observer.settled(set(cluster.engines), layout.shards, seconds=SETTLE_SECONDS)
            await Demo(cluster, observer, witness, say=say).run()


class Demo:
    """The scenario over a running cluster."""

    def __init__(
        self,
        cluster: LocalCluster,
        observer: Observer,
        witness: Witness,
        *,
        say: Callable[[Result], None],
    ) -> None:
        self.cluster = cluster
        self.observer = observer
        self.witness = witness
        self.say = say
        self.results: list[Result] = []
        self.shard_of_host: dict[int, int] = {}
        self._members: dict[str, Seen] = {}

    async def run(self) -> list[Result]:
        """All steps in order; a step that fails is told, and the next is tried all the same."""
        await self._learn_hosts()
        for step in (self._kill, self._freeze, self._freeze_with_supervisor, self._drain, self._start):
            await step()
        return self.results

    async def _learn_hosts(self) -> None:
        async with httpx.AsyncClient(base_url=self.cluster.api_url) as client:
            url: str | None = "/v1/hosts?limit=1000"
            while url:
                answer = (await client.get(url)).raise_for_status().json()
                self.shard_of_host |= {host["port"]: host["shard"] for host in answer["hosts"]}
                url = answer.get("next")

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
            await self.observer.settled(others, self.cluster.layout.shards, seconds=SETTLE_SECONDS)
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
        result = Result(name, engine, limit=limit)
        before = self.observer.owners()
        self._members = self.observer.members()
        begun, begun_boot = time.time(), boottime()
        try:
            await act(engine)
            expected = set(self.cluster.engines)
            await self.observer.settled(expected, self.cluster.layout.shards, seconds=SETTLE_SECONDS)
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

    async def _replaced(self, engine: str) -> None:
        await self.observer.replaced(engine, self._members[engine], seconds=SETTLE_SECONDS)

    def _signal_engine(self, engine: str, number: int) -> None:
        """Signal the engine process itself, the child of its supervisor."""
        pid = self._members[engine].pid
        fd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(fd, number)
        finally:
            os.close(fd)
