"""`engine plugins new` writes what passes its own test, and installs as it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.cli.scaffold import KINDS, write_package
from engine.errors import Conflict, InvalidInput


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_package_passes_its_test(kind: str, tmp_path: Path) -> None:
    made = write_package(kind, "my_own", tmp_path)
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    done = subprocess.run(argv, cwd=made, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_the_test_of_a_new_package_can_fail(kind: str, tmp_path: Path) -> None:
    made = write_package(kind, "my_own", tmp_path)
    module = made / "my_own.py"
    text = module.read_text()
    breaking = {
        "singleton": (
            "async for beat in",
            "for beat in (1,):\n            return\n        async for beat in",
        ),
        "command": ('frozenset({f"vm:{self.arguments.vm_id}"})', "frozenset()"),
        "driver": ("self._authority.check()  #", "#"),
    }[kind]
    assert breaking[0] in text
    module.write_text(text.replace(*breaking))
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    done = subprocess.run(argv, cwd=made, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 1, done.stdout


@pytest.mark.parametrize("name", ["Mine", "1st", "my-own", "class", "", "x" * 64])
def test_a_name_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="lower-case letters"):
        write_package("singleton", name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "my-own").mkdir()
    with pytest.raises(Conflict, match="is there already"):
        write_package("singleton", "my_own", tmp_path)
