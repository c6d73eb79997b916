"""What is declared is true: entry points load, pins are plain pins, the samples name no machine."""

from __future__ import annotations

import configparser
import re
import shutil
import socket
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from tests.contract.packaging.machine import ROOT

ENTRY_POINTS = [entry for entry in metadata.distribution("engine-ha").entry_points]


def declared() -> configparser.ConfigParser:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return setup


@pytest.mark.parametrize("entry", ENTRY_POINTS, ids=lambda entry: f"{entry.group}:{entry.name}")
def test_an_entry_point_loads(entry: metadata.EntryPoint) -> None:
    assert callable(entry.load())


def test_the_installed_entry_points_are_those_of_setup_cfg() -> None:
    section = declared()["options.entry_points"]
    wanted = {
        (group, *(part.strip() for part in line.split("=", 1)))
        for group, lines in section.items()
        for line in lines.strip().splitlines()
    }
    assert {(entry.group, entry.name, entry.value) for entry in ENTRY_POINTS} == wanted


def test_every_constraint_is_a_version_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    odd = [
        line
        for line in lines
        if not re.fullmatch(r"#.*|[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.]*", line)
    ]
    assert odd == []


def test_everything_that_setup_cfg_asks_for_is_pinned() -> None:
    pinned = {_name(line) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    setup = declared()
    asked = setup["options"]["install_requires"] + setup["options.extras_require"]["test"]
    assert [line for line in asked.strip().splitlines() if _name(line) not in pinned] == []


def test_the_sample_of_the_configuration_names_no_machine() -> None:
    sample = (ROOT / "etc" / "engine" / "engine.conf.sample").read_text()
    assert str(ROOT) not in sample
    assert str(Path.home()) not in sample
    assert not re.search(rf"= {re.escape(socket.gethostname())}$", sample, re.MULTILINE)


def test_the_example_of_three_machines_sets_options_that_there_are() -> None:
    example = configparser.ConfigParser()
    example.read(ROOT / "etc" / "engine" / "examples" / "engine.conf")
    asked = {(group, name) for group in example.sections() for name in example[group]}
    known = re.compile(r"^\[(\w+)\]$|^#?(\w+) =", re.MULTILINE)
    group, there = "", set()
    for section, name in known.findall((ROOT / "etc" / "engine" / "engine.conf.sample").read_text()):
        group = section or group
        there.add((group, name))
    assert asked - there == set()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", ["engine.service", "engine-api.service"])
def test_systemd_understands_a_unit(unit: str, tmp_path: Path) -> None:
    text = (ROOT / "etc" / "engine" / "systemd" / unit).read_text()
    (tmp_path / unit).write_text(
        text.replace("/opt/engine/.venv/bin", "/bin").replace("/bin/gunicorn", "/bin/sh")
    )
    (tmp_path / unit).write_text((tmp_path / unit).read_text().replace("/bin/engine ", "/bin/sh "))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if unit in line]) == (0, [])


def _name(line: str) -> str:
    return (
        re.split(r"[^A-Za-z0-9._-]", line.strip(), maxsplit=1)[0].lower().replace("_", "-").replace(".", "-")
    )
