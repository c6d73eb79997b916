"""`engine demo` from end to end: the promise of the project, as its user can try it."""

from __future__ import annotations

import json

import pytest

from tests.cluster.conftest import Workplace

EXIT_CONFLICT = 5

pytestmark = pytest.mark.timeout(660)


def test_the_demo_holds_its_invariants(workplace: Workplace) -> None:
    demo = workplace.start("demo", "--state-dir", str(workplace.state), "--json", "--patience", "10")
    status = demo.wait(seconds=600)
    assert status == 0, demo.output
    document = json.loads(demo.output[demo.output.index("{\n") : demo.output.rindex("}") + 1])
    assert document["ok"] is True
    assert len(document["steps"]) == 5
    moved = {step["step"]: step["unowned"]["moves"] for step in document["steps"]}
    assert all(moved.values()), f"a step moved no host, so it has shown nothing: {moved}"
    assert sum(step["asked_by_two"] for step in document["steps"]) == 0
    assert all(step["under_way"] for step in document["steps"]), (
        "a step met no command, so it has shown nothing"
    )
    assert 0 < document["live_change"]["longest"] <= document["live_change"]["limit"]
    crash = document["host_crash"]
    assert crash["vms"], "the host that crashed ran nothing, so it has shown nothing"
    assert 0 < crash["fenced_after"] < crash["running_after"]
    vms = document["vms"]
    assert (vms["vms"], vms["doubles"], vms["lost"]) == (50, [], [])
    assert vms["succeeded"] > 50  # all were started, some were moved


def test_the_demo_refuses_a_directory_with_a_cluster_in_it(workplace: Workplace) -> None:
    workplace.state.mkdir()
    (workplace.state / "engine.db").touch()
    done = workplace.run("demo", "--state-dir", str(workplace.state))
    assert done.returncode == EXIT_CONFLICT
    assert "name another --state-dir" in done.stderr
