"""What engines say themselves, asked through the API and the command line of a running cluster."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.cluster.conftest import Workplace, eventually


def test_engines_answer_for_themselves_and_one_that_is_frozen_is_an_error_in_its_place(
    workplace: Workplace,
) -> None:
    workplace.up("--tls")
    said = workplace.run(
        "zkcli", "--state-dir", str(workplace.state), "get", "/engine/default/members/engine-1"
    )
    assert '"calls":"https://127.0.0.1:' in said.stdout
    eventually(
        lambda: all(host["status"] == "up" for host in workplace.ask("hosts", "list")),
        what="all hosts are up",
    )
    host = workplace.ask("hosts", "list")[0]
    live = workplace.ask("hosts", "show", "--live", host["name"])
    assert (live["id"], live["engine"], live["status"]) == (host["id"], host["owner"], "up")
    assert live["connected"] is True
    leaders = {task["name"] for task in workplace.ask("members", "tasks") if task["kind"] == "singleton"}
    assert "event_retention" in leaders
    numbers = workplace.ask("status", "--live")["live"]
    assert set(numbers["engines"]) == {"engine-1", "engine-2"}
    assert numbers["total"]["hosts"] == 6
    assert numbers["errors"] == []

    asked = ("vms", "place", "--memory-mib", "1024", "--state-dir", str(workplace.state), "-f", "json")
    eventually(lambda: workplace.run(*asked).returncode == 0, what="a place is known")
    place = json.loads(workplace.run(*asked).stdout)
    assert place["host"] in {host["name"] for host in workplace.ask("hosts", "list")}

    frozen = dict(workplace.processes())["engine-1"]
    children = [int(pid) for pid in Path(f"/proc/{frozen}/task/{frozen}/children").read_text().split()]
    for pid in (frozen, *children):
        os.kill(pid, signal.SIGSTOP)
    try:
        numbers = workplace.ask("status", "--live")["live"]
    finally:
        for pid in (*children, frozen):
            os.kill(pid, signal.SIGCONT)
    assert set(numbers["engines"]) == {"engine-2"}
    assert [error["engine"] for error in numbers["errors"]] == ["engine-1"]
