"""The benchmark of the fleet still runs: a smoke with few hosts, its lines as they should be."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from engine.processes import leashed

SECONDS = os.environ.get("ENGINE_BENCH_SECONDS", "1")


def test_a_fleet_is_measured_beside_a_bare_client() -> None:
    command = [sys.executable, "-m", "tests.bench.bench_monitor"]
    run = subprocess.run(
        leashed([*command, "--hosts", "100", "--period", "1", "--seconds", SECONDS]),
        cwd=Path(__file__).parents[2],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    print(run.stdout)
    found = {name: float(value) for name, value in re.findall(r"^(\S+): (\S+) \S", run.stdout, re.MULTILINE)}
    assert found["monitor.failures"] == 0
    assert found["monitor.rows_up"] == 100
    assert found["monitor.steady.late_max"] < 3
    assert found["monitor.memory"] < 100  # of so few hosts little is theirs; the target is 20
    assert found["monitor.cpu_per_poll.ratio"] > 0
