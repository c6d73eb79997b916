"""Hosts, VMs and host clusters are changed from the version that was read, and only in what is named."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from engine.cli.entities import EMPTY
from engine.cli.hosts import HostsUpdate
from engine.cli.main import EngineApp
from engine.errors import InvalidInput
from tests.contract.cli.conftest import Engine


def changed(engine: Engine, *arguments: str) -> Any:
    return engine(*arguments, "-f", "json").json()


def test_a_host_is_changed_in_what_is_named(engine: Engine) -> None:
    added = changed(engine, "hosts", "add", "moved", "moved.example")
    after = changed(engine, "hosts", "update", "moved", "--name", "moved-2", "--port", "99")
    assert {name for name in added if after[name] != added[name]} == {"name", "port", "version"}
    assert (after["name"], after["port"], after["version"]) == ("moved-2", 99, 2)


def test_a_vm_is_resized_and_what_may_be_empty_is_emptied(engine: Engine) -> None:
    changed(engine, "vms", "add", "vm-1", "--affinity-group", "web", "--affinity", "apart")
    arguments = ("--memory", "2048", "--highly-available", "--affinity-group", "", "--affinity", "")
    after = changed(engine, "vms", "update", "vm-1", *arguments)
    assert (after["memory_bytes"], after["highly_available"]) == (2**31, True)
    assert (after["affinity_group"], after["affinity"]) == (None, None)
    assert changed(engine, "vms", "update", "vm-1", "--no-highly-available")["highly_available"] is False


def test_a_cluster_is_changed(engine: Engine) -> None:
    changed(engine, "clusters", "add", "dense", "--policy", "pack")
    after = changed(engine, "clusters", "update", "dense", "--no-fencing", "--memory-percent", "150")
    assert (after["policy"], after["fencing"], after["memory_percent"]) == ("pack", False, 150)


def test_what_is_at_another_version_is_not_changed(engine: Engine) -> None:
    changed(engine, "vms", "add", "vm-2")
    run = engine("vms", "update", "vm-2", "--cpus", "4", "--if-version", "7")
    assert run.code == 5
    assert "version 1, not 7" in run.err
    assert changed(engine, "vms", "show", "vm-2")["cpus"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("vms", "update", "nobody", "--cpus", "1"), 4, "nobody"),
        (("hosts", "update", "nobody"), 1, "nothing is to be changed"),
        (
            ("hosts", "update", "nobody", "--fence-kind", "apc"),
            1,
            "--fence-address, --fence-port, --fence-user",
        ),
        (("hosts", "update", "nobody", "--fence-kind", "apc", "--no-fence"), 1, "no other --fence option"),
        (("clusters", "update", "default", "--policy", "heap"), 2, "invalid choice"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(
    engine: Engine, arguments: tuple[str, ...], code: int, told: str
) -> None:
    run = engine(*arguments)
    assert (run.code, told in run.err) == (code, True), run.err


def test_hosts_are_listed_by_cluster_and_in_the_order_that_is_asked_for(engine: Engine) -> None:
    changed(engine, "clusters", "add", "other")
    for name in ("listed-a", "listed-b"):
        changed(engine, "hosts", "add", name, f"{name}.example")
        changed(engine, "hosts", "update", name, "--cluster", "other")
    listed = changed(engine, "hosts", "list", "--cluster", "other", "--order-by=-name")
    assert [host["name"] for host in listed] == ["listed-b", "listed-a"]
    run = engine("hosts", "list", "--order-by", "colour")
    assert (run.code, "name, address, status" in run.err) == (1, True)


def parsed(*arguments: str) -> argparse.Namespace:
    return HostsUpdate(EngineApp(), None).get_parser("engine").parse_args(["h", *arguments])


def test_a_fence_agent_is_given_whole_with_its_password_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hunter2\nsecond line\n")
    whole = ("--fence-kind", "apc", "--fence-address", "a", "--fence-port", "1", "--fence-user", "u")
    update = HostsUpdate(EngineApp(), None)
    found = update.changes(parsed(*whole, "--fence-password-file", str(file)))["power_management"]
    assert found == {"kind": "apc", "address": "a", "port": 1, "username": "u", "password": "hunter2"}
    assert update.changes(parsed("--no-fence"))["power_management"] is EMPTY
    with pytest.raises(InvalidInput, match="cannot be read"):
        update.changes(parsed(*whole, "--fence-password-file", str(tmp_path / "nosuch")))
