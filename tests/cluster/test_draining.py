"""An engine that is drained runs on without anything, also over its sessions, until it is undrained."""

from __future__ import annotations

from tests.cluster.conftest import Workplace, eventually


def owned(workplace: Workplace) -> dict[str, tuple[str, int]]:
    return {
        member["engine"]: (member["state"], member["shards_owned"])
        for member in workplace.ask("members", "list")
    }


def leaders(workplace: Workplace) -> set[str]:
    return {task["engine"] for task in workplace.ask("members", "tasks") if task["detail"] == "leads"}


def session_of(workplace: Workplace, engine: str) -> str:
    """ "" while it is no member."""
    members = workplace.ask("members", "list", "-c", "engine", "-c", "started")
    return next((str(member["started"]) for member in members if member["engine"] == engine), "")


def test_an_engine_is_drained_and_undrained_while_it_runs(workplace: Workplace) -> None:
    workplace.up()
    state = ("--state-dir", str(workplace.state))
    began = {member["engine"]: member["pid"] for member in workplace.ask("members", "list")}
    eventually(lambda: sum(n for _, n in owned(workplace).values()) == 256, what="all shards are owned")

    drained = workplace.run("members", "drain", "engine-1", *state)
    assert (drained.returncode, drained.stdout) == (0, "engine-1 is draining, with 0 shards\n"), (
        drained.stderr
    )
    assert owned(workplace) == {"engine-1": ("draining", 0), "engine-2": ("up", 256)}
    eventually(lambda: leaders(workplace) == {"engine-2"}, what="only the other one leads")

    before = session_of(workplace, "engine-1")
    workplace.run("zkcli", *state, "delete", "/engine/default/members/engine-1")
    eventually(lambda: session_of(workplace, "engine-1") not in ("", before), what="it has joined again")
    assert owned(workplace) == {"engine-1": ("draining", 0), "engine-2": ("up", 256)}

    refused = workplace.run("members", "drain", "engine-2", *state)
    assert refused.returncode == 5
    assert "no engine but engine-2 is up: its hosts would be nobody's" in refused.stderr
    unknown = workplace.run("members", "drain", "engine-9", *state)
    assert unknown.returncode == 4

    back = workplace.run("members", "undrain", "engine-1", *state)
    assert back.returncode == 0, back.stderr
    eventually(
        lambda: owned(workplace) == {"engine-1": ("up", 128), "engine-2": ("up", 128)}, what="halves again"
    )
    eventually(lambda: leaders(workplace) == {"engine-1", "engine-2"}, what="both lead something")
    assert {member["engine"]: member["pid"] for member in workplace.ask("members", "list")} == began
