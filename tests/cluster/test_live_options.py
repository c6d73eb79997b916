"""Options that operators change while engines run: it is seen from outside, and no engine starts again."""

from __future__ import annotations

import json
import subprocess

from tests.cluster.conftest import Workplace, eventually
from tests.cluster.test_draining import owned


def test_options_take_effect_on_running_engines(workplace: Workplace) -> None:
    workplace.up()
    state = ("--state-dir", str(workplace.state))
    began = {member["engine"]: member["pid"] for member in workplace.ask("members", "list")}
    eventually(lambda: sum(n for _, n in owned(workplace).values()) == 256, what="all shards are owned")

    def config(*arguments: str) -> subprocess.CompletedProcess[str]:
        return workplace.run("config", *arguments, *state)

    heavier = config("set", "--engine", "engine-1", "engine.weight=3")
    assert heavier.returncode == 0, heavier.stderr
    eventually(
        lambda: owned(workplace) == {"engine-1": ("up", 192), "engine-2": ("up", 64)},
        what="three quarters are the heavier one's",
    )

    for_hosts = config("set", "--hosts-of", "default", "hosts.tick_seconds=0.7")
    assert for_hosts.returncode == 0, for_hosts.stderr
    assert "hosts@default.tick_seconds" in for_hosts.stdout
    refused = config("set", "--hosts-of", "default", "hosts.connects=7")
    assert refused.returncode == 1
    assert "hosts.connects cannot be set for the hosts of one cluster" in refused.stderr
    assert "hosts.tick_seconds" in refused.stderr

    found = {f"{each['group']}.{each['option']}": each["value"] for each in workplace.ask("config", "get")}
    assert found["hosts@default.tick_seconds"] == 0.7
    assert workplace.ask("config", "pending") == [], json.dumps(found)
    assert {member["engine"]: member["pid"] for member in workplace.ask("members", "list")} == began
