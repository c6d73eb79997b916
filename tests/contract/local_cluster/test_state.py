"""Who holds a state directory, and how `engine down` ends just that and what is left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.errors import Conflict
from engine.local_cluster.state import ProcessName, StateDirectory, stop_cluster
from engine.processes import leashed, start_time

PATIENCE_SECONDS = 0.5

Hold = Callable[[str], "subprocess.Popen[str]"]

HOLDER = """
import signal, subprocess, sys
from pathlib import Path
from engine.local_cluster.state import ProcessName, StateDirectory, start_time
from engine.processes import leashed
root, obedience = sys.argv[1:]
if obedience == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
directory = StateDirectory(Path(root))
with directory.exclusive():
    child = subprocess.Popen(leashed(["sleep", "1000"]), process_group=0)
    directory.remember([ProcessName("engine-1", child.pid, start_time(child.pid))])
    print("ready", flush=True)
    signal.pause()
"""


@pytest.fixture
def directory(tmp_path: Path) -> StateDirectory:
    made = StateDirectory(tmp_path / "state")
    made.create()
    return made


@pytest.fixture
def hold(directory: StateDirectory) -> Iterator[Hold]:
    """Start an `up` of a kind: it holds the directory and has one child."""
    started: list[subprocess.Popen[str]] = []

    def start(obedience: str) -> subprocess.Popen[str]:
        argv = leashed([sys.executable, "-c", HOLDER, str(directory.root), obedience])
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def stop_and_reap(directory: StateDirectory, process: subprocess.Popen[str]) -> list[str]:
    done = stop_cluster(directory, patience_seconds=PATIENCE_SECONDS)
    process.wait(10)
    return done


def test_nobody_holds_a_directory_that_was_let_go(directory: StateDirectory) -> None:
    assert directory.holder() is None
    with directory.exclusive():
        held = directory.holder()
        assert held == ProcessName("up", os.getpid(), start_time(os.getpid()) or 0)
    assert directory.holder() is None


def test_who_holds_it_is_named_to_the_next(directory: StateDirectory) -> None:
    with (
        directory.exclusive(),
        pytest.raises(Conflict, match=f"pid {os.getpid()}"),
        StateDirectory(directory.root).exclusive(),
    ):
        pass


def test_a_process_that_took_over_the_pid_of_an_old_up_is_not_signalled(directory: StateDirectory) -> None:
    with directory.exclusive():
        # The name of an `up` of long ago, with a pid that is somebody else's now (here: our own).
        (directory.root / "lock").write_text(json.dumps({"pid": os.getpid(), "started": 1}))
        assert stop_cluster(directory, patience_seconds=PATIENCE_SECONDS) == []


def test_an_up_that_has_not_written_its_name_is_waited_for(directory: StateDirectory) -> None:
    with directory.exclusive():
        (directory.root / "lock").write_text("")
        held = directory.holder()
        assert held is not None
        assert not held.alive()


def test_an_up_that_obeys_is_stopped_and_its_children_are_not_called_left_over(
    directory: StateDirectory, hold: Hold
) -> None:
    process = hold("obedient")
    assert stop_and_reap(directory, process) == [f"stopped the cluster (pid {process.pid})"]
    assert directory.remembered() == []


def test_an_up_that_does_not_obey_is_killed_and_its_children_are_not_called_left_over(
    directory: StateDirectory, hold: Hold
) -> None:
    process = hold("deaf")
    (line,) = stop_and_reap(directory, process)
    assert line.startswith(f"killed the cluster (pid {process.pid})")
    assert directory.remembered() == []


def test_what_outlives_its_up_is_ended_and_told(directory: StateDirectory) -> None:
    orphan = subprocess.Popen(["sleep", "1000"], process_group=0)
    try:
        directory.remember([ProcessName("engine-1", orphan.pid, start_time(orphan.pid) or 0)])
        assert stop_cluster(directory, patience_seconds=PATIENCE_SECONDS) == [
            f"ended a left-over engine-1 (pid {orphan.pid})"
        ]
        assert orphan.wait(10) == -signal.SIGKILL
    finally:
        orphan.kill()
        orphan.wait()
