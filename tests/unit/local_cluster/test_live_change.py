"""The judge of a live change sees when it did not take."""

from __future__ import annotations

from pathlib import Path

import orjson

from engine.local_cluster.live_change import LiveChange, judge
from plugins.simulator.log import _boot


def written(directory: Path, *, period: float, hosts: tuple[int, ...] = (1, 2)) -> Path:
    """A log in which each host is asked each `period` seconds from 0 to 20."""
    lines = [
        {"t": number * period, "host": host, "engine": "e", "epoch": 1, "verb": "v", "id": "i", "op": ""}
        for number in range(int(20 / period))
        for host in hosts
    ]
    file = directory / f"{_boot()}-0000000000001-1.jsonl"
    file.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return directory


def test_hosts_that_are_asked_often_enough_are_no_failure(tmp_path: Path) -> None:
    change = LiveChange()
    judge(change, written(tmp_path, period=1.0), [1, 2], 4.5, 10.5)
    assert change.failures == []
    assert change.longest == 1.0


def test_hosts_that_are_asked_as_before_are_a_failure(tmp_path: Path) -> None:
    change = LiveChange()
    judge(change, written(tmp_path, period=3.0), [1, 2], 4.5, 10.5)
    assert change.failures == ["2 of 2 hosts were left alone for up to 3.00 s: ports 1, 2"]
    assert change.lines()[0].startswith("FAIL")


def test_a_host_that_is_asked_no_more_is_a_failure(tmp_path: Path) -> None:
    change = LiveChange()
    judge(change, written(tmp_path, period=1.0, hosts=(1,)), [1, 2], 4.5, 10.5)
    assert change.failures == ["1 of 2 hosts were left alone for up to 6.00 s: ports 2"]
