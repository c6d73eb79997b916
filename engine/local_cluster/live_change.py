"""An operator has all hosts asked three times as often, and it takes while everything goes on.

One PATCH of the shared configuration, as `engine config set` sends it. The simulator's log is the witness:
after one period of before no host is left alone for longer than the new one and a tick.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from engine.clock import boottime
from engine.local_cluster.timings import PERIOD_SECONDS, TICK_OF_POLLS_SECONDS
from plugins.simulator import witness
from plugins.simulator.log import read_log

OPTION = "hosts.statistics_seconds"
NEW_SECONDS = 1.0
WATCHED_SECONDS = 4.0


@dataclass(slots=True)
class LiveChange:
    """What became of it. `longest` is how long a host was left alone at most, in seconds."""

    seconds: float = NEW_SECONDS
    limit: float = NEW_SECONDS + TICK_OF_POLLS_SECONDS
    written_after: float = 0.0
    longest: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def step(self) -> str:
        return f"hosts asked each {self.seconds:g} s, not {PERIOD_SECONDS:g} s"

    def lines(self) -> list[str]:
        """For people."""
        ok = "FAIL" if self.failures else "ok  "
        return [
            f"{ok} {self.step}: `engine config set {OPTION}={self.seconds:g}` on running engines",
            f"     written in {self.written_after * 1000:.0f} ms; then no host was left alone for longer than"
            f" {self.longest:.2f} s, limit {self.limit:.2f} s",
            *(f"     {failure}" for failure in self.failures),
        ]

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "step": self.step, "ok": not self.failures}


async def change_live(
    client: httpx.AsyncClient, log: Path, ports: Sequence[int], *, patience: float = 1.0
) -> LiveChange:
    """Write it, give each host one period of before, and watch. The hosts all have to be up."""
    change = LiveChange()
    change.limit *= patience
    begun = time.monotonic()
    answer = await client.patch("/v1/config", json={"set": {OPTION: change.seconds}, "comment": "the demo"})
    change.written_after = time.monotonic() - begun
    if answer.status_code != 200:
        change.failures.append(f"it was refused: {answer.status_code} {answer.text[:200]}")
        return change
    await asyncio.sleep(PERIOD_SECONDS + TICK_OF_POLLS_SECONDS)
    since = boottime()
    await asyncio.sleep(WATCHED_SECONDS)
    await asyncio.to_thread(judge, change, log, ports, since, boottime())
    return change


def judge(change: LiveChange, log: Path, ports: Sequence[int], since: float, until: float) -> None:
    """By what the hosts saw between two moments."""
    found = witness.gaps(list(read_log(log)), ports, since=since, until=until)
    change.longest = max(gap.seconds for gap in found.values())
    late = sorted(gap.host for gap in found.values() if gap.seconds > change.limit)
    if late:
        change.failures.append(
            f"{len(late)} of {len(ports)} hosts were left alone for up to {change.longest:.2f} s:"
            f" ports {', '.join(map(str, late[:5]))}"
        )
