"""Asks the simulator what hosts saw while a step of the demo went on, and what became of the VMs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from engine.clock import boottime
from engine.local_cluster.host_crash import HostCrash, judge_crash
from engine.local_cluster.judgement import Submitted, VmVerdict, astray, judge_vms
from engine.local_cluster.workload import Workload, listed
from plugins.simulator import witness
from plugins.simulator.control import Simulator
from plugins.simulator.log import read_log

AGREE_SECONDS = 15.0
"""How long after the last command the database may learn where VMs are: some polls."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`lost_polls`: ports of hosts that were left alone too long; `asked_by_two`: requests whose epoch
    was lower than one that the host had seen already."""

    lost_polls: tuple[int, ...]
    asked_by_two: int


class Witness:
    """The log of one fleet; `period_seconds` and `tick_seconds` are those of its polls."""

    def __init__(
        self, log: Path, *, period_seconds: float, tick_seconds: float, patience: float = 1.0
    ) -> None:
        self._log = log
        self._period_seconds = period_seconds
        self._tick_seconds = tick_seconds
        self._patience = patience

    async def judge(self, stayed: Sequence[int], *, since: float) -> Verdict:
        """What happened from `since` (CLOCK_BOOTTIME) to now; `stayed` are the ports that did not move.

        Waits until a poll that is due by now would be in the log.
        """
        until = boottime()
        await asyncio.sleep(self._period_seconds + self._tick_seconds)
        return await asyncio.to_thread(self._judge, stayed, since, until)

    def _judge(self, stayed: Sequence[int], since: float, until: float) -> Verdict:
        log = list(read_log(self._log))
        lost = witness.lost_polls(
            log,
            stayed,
            period_seconds=self._period_seconds,
            tick_seconds=self._tick_seconds * self._patience,
            since=since,
            until=until + self._period_seconds + self._tick_seconds,
        )
        by_two = [found for found in witness.asked_by_two(log) if found.request.t >= since]
        return Verdict(tuple(gap.host for gap in lost), len(by_two))

    async def judge_crash(self, crash: HostCrash, client: httpx.AsyncClient) -> list[str]:
        """What became of a crashed host and its VMs that should not have."""
        names = {host["port"]: host["name"] for host in await listed(client, "hosts")}
        log = await asyncio.to_thread(lambda: list(read_log(self._log)))
        return judge_crash(crash, log, names)

    async def judge_vms(
        self, workload: Workload, simulator: Simulator, *, excuse: Callable[[Submitted], str | None]
    ) -> VmVerdict:
        """By the whole log, all commands, and where each VM is now; the database gets `AGREE_SECONDS`
        to learn the last."""
        deadline = time.monotonic() + AGREE_SECONDS * self._patience
        while True:
            rows, truth = await workload.rows(), await simulator.vms()
            if not astray(rows, truth) or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        commands = await workload.commands()
        log = await asyncio.to_thread(lambda: list(read_log(self._log)))
        return judge_vms(log, rows, truth, commands, excuse=excuse)
