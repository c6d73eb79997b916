"""Singletons in real engine processes: moved by the CLI, followed by another engine when theirs is killed."""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.cluster.conftest import Workplace, eventually

NAME = "event_retention"


def show(workplace: Workplace) -> dict[str, Any]:
    shown: dict[str, Any] = workplace.ask("singletons", "show", NAME)
    return shown


def leader(workplace: Workplace) -> str | None:
    led: str | None = show(workplace)["leader"]
    return led


def pid_of(workplace: Workplace, engine: str) -> int:
    (pid,) = [m["pid"] for m in workplace.ask("members", "list") if m["engine"] == engine]
    return int(pid)


def test_a_singleton_goes_where_it_is_moved_and_elsewhere_while_that_engine_is_dead(
    workplace: Workplace,
) -> None:
    workplace.up()
    state_dir = ("--state-dir", str(workplace.state))
    moved = workplace.run("singletons", "move", NAME, "engine-1", *state_dir)
    assert moved.returncode == 0, moved.stderr
    eventually(lambda: leader(workplace) == "engine-1", what="engine-1 leads")
    first = show(workplace)["token"]
    os.kill(pid_of(workplace, "engine-1"), signal.SIGKILL)
    eventually(lambda: show(workplace)["token"] not in (first, None), what="it is led again")
    eventually(lambda: leader(workplace) == "engine-1", what="the preferred engine is back")
    assert show(workplace)["token"] > first
    paused = workplace.run("singletons", "pause", NAME, *state_dir)
    assert paused.returncode == 0, paused.stderr
    eventually(lambda: leader(workplace) is None, what="nobody leads it")
    assert show(workplace)["state"] == "paused"
