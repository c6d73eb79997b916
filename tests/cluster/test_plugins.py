"""A stranger's package is put into a running cluster, leads, fails over, and is taken out again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.conftest import Workplace, eventually

pytestmark = pytest.mark.timeout(240)


def install(package: Path, directory: Path) -> None:
    """As the README says, but without a network."""
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*argv, "--target", str(directory), str(package)], check=True, timeout=100)


def leader(workplace: Workplace, name: str) -> str:
    plugins = workplace.ask("plugins", "list", "--kind", "singleton")
    return next((str(plugin["runs_on"]) for plugin in plugins if plugin["name"] == name), "")


def told(workplace: Workplace, engine: str) -> bool:
    events = workplace.ask("events", "list", "--kind", "roll_call")
    return any(event["engine"] == engine for event in events)


def test_a_generated_package_leads_fails_over_and_goes(workplace: Workplace, tmp_path: Path) -> None:
    directory = tmp_path / "dropped"
    directory.mkdir(mode=0o755)
    workplace.environment["OS_PLUGINS__DIRECTORY"] = str(directory)
    workplace.environment["OS_SINGLETON_ROLL_CALL__INTERVAL_SECONDS"] = "0.2"
    workplace.up()
    assert leader(workplace, "roll_call") == ""

    made = workplace.run("plugins", "new", "singleton", "roll_call", "--directory", str(tmp_path))
    assert made.returncode == 0, made.stderr
    install(tmp_path / "roll-call", directory)
    reload = workplace.run("plugins", "reload", "--state-dir", str(workplace.state))
    assert reload.returncode == 0, reload.stdout + reload.stderr
    assert reload.stdout.count("is back") == 2

    eventually(lambda: leader(workplace, "roll_call") != "", seconds=60)
    first = leader(workplace, "roll_call")
    eventually(lambda: told(workplace, first), seconds=60)
    members = {member["engine"]: member["pid"] for member in workplace.ask("members", "list")}
    os.kill(members[first], signal.SIGKILL)
    (other,) = members.keys() - {first}
    eventually(lambda: told(workplace, other), seconds=60)

    eventually(lambda: len(workplace.ask("members", "list")) == 2, seconds=60)
    shutil.rmtree(directory)
    directory.mkdir(mode=0o755)
    reload = workplace.run("plugins", "reload", "--state-dir", str(workplace.state))
    assert reload.returncode == 0, reload.stdout + reload.stderr
    eventually(
        lambda: "roll_call" not in {p["name"] for p in workplace.ask("plugins", "list")},
        seconds=60,
    )
    assert {host["status"] for host in workplace.ask("hosts", "list")} == {"up"}


def test_what_cannot_be_restarted_is_refused_by_name(workplace: Workplace) -> None:
    workplace.up()
    state = ["--state-dir", str(workplace.state)]
    unknown = workplace.run("members", "restart", "engine-9", *state)
    assert unknown.returncode == 4
    assert "engine-9 is not in the cluster; there are engine-1, engine-2" in unknown.stderr
    nobody = workplace.run("members", "restart", *state)
    assert nobody.returncode == 1
    assert "--rolling" in nobody.stderr
