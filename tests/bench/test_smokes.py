"""Every benchmark still runs: each in its smallest size, and none is forgotten."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine.processes import leashed

HERE = Path(__file__).parent

SMALLEST = {
    "bench_api": ["--seconds", "1"],
    "bench_commands": ["--smoke", "--database", "postgresql"],
    "bench_config": ["--smoke"],
    "bench_db": ["--smoke"],
    "bench_execution": ["--smoke"],
    "bench_election": ["--smoke"],
    "bench_failover": ["--only", "engine", "--kills", "1", "--hosts", "6"],
    "bench_locks": ["--smoke"],
    "bench_monitor": ["--hosts", "50", "--seconds", "2", "--period", "1"],
    "bench_scheduler": ["--only", "burst,peers", "--jobs", "50", "--peer-jobs", "10"],
    "bench_sharding": ["--smoke"],
    "bench_state": ["--smoke"],
    "bench_takeover": ["--only", "engine", "--commands", "5", "--hosts", "6", "--database", "sqlite"],
    "bench_steady": ["--hosts", "6", "--engines", "2", "--seconds", "1"],
}


@pytest.mark.parametrize("name", [name for name in SMALLEST if (HERE / f"{name}.py").exists()])
def test_a_benchmark_runs_and_prints_its_figures(name: str) -> None:
    run = subprocess.run(
        leashed([sys.executable, "-m", f"tests.bench.{name}", *SMALLEST[name]]),
        cwd=HERE.parents[1],
        stdout=subprocess.PIPE,
        text=True,
        timeout=110,
        check=True,
    )
    print(run.stdout)
    assert re.search(r"^\S.*: [0-9.]+ \S", run.stdout, re.MULTILINE)


def test_no_benchmark_is_without_a_smoke() -> None:
    benchmarks = {path.stem for path in HERE.glob("bench_*.py")}
    own = {path.stem.replace("test_", "bench_") for path in HERE.glob("test_*.py")}
    assert benchmarks - own - SMALLEST.keys() == set()
