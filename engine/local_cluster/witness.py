"""Asks the simulator's log what hosts saw while a step of the demo went on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.clock import boottime
from plugins.simulator import witness
from plugins.simulator.log import read_log


@dataclass(frozen=True, slots=True)
class Verdict:
    """`lost_polls`: ports of hosts that were left alone too long; `asked_by_two`: requests whose epoch
    was lower than one that the host had seen already."""

    lost_polls: tuple[int, ...]
    asked_by_two: int


class Witness:
    """The log of one fleet; `period_seconds` and `tick_seconds` are those of its polls."""

    def __init__(self, log: Path, *, period_seconds: float, tick_seconds: float) -> None:
        self._log = log
        self._period_seconds = period_seconds
        self._tick_seconds = tick_seconds

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
            tick_seconds=self._tick_seconds,
            since=since,
            until=until + self._period_seconds + self._tick_seconds,
        )
        by_two = [found for found in witness.asked_by_two(log) if found.request.t >= since]
        return Verdict(tuple(gap.host for gap in lost), len(by_two))
