"""Which plugins are found, which are let in, and what is said of the others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import InvalidInput
from engine.extensions import Installed

GOOD = """
from engine.plugin import Singleton
__version__ = "1.2"
ENTRY_POINTS = {"engine.singletons": {"%s": "Duty"}}
class Duty(Singleton):
    async def run(self, leadership):
        async for _ in leadership.every(1.0):
            pass
"""
OLD = GOOD + "    contract = 0\n"


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    found = tmp_path / "dropped"
    found.mkdir(mode=0o755)
    before = sys.path.copy()
    modules = set(sys.modules)
    yield found
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(found) in str(sys.modules[name].__file__):
            del sys.modules[name]


def drop(directory: Path, name: str, text: str = GOOD) -> None:
    (directory / f"dropped_{name}.py").write_text(text % name if "%s" in text else text)


def refusals(installed: Installed) -> dict[str, str]:
    return {plugin.offer.name: plugin.refusal for plugin in installed.survey()}


def test_a_file_in_the_directory_is_a_plugin(directory: Path) -> None:
    drop(directory, "roll_call")
    installed = Installed(directory)
    assert "roll_call" in installed.names("engine.singletons")
    (found,) = [offer for offer in installed.offers("engine.singletons") if offer.name == "roll_call"]
    assert (found.origin, found.version) == ("dropped_roll_call.py", "1.2")
    assert installed.load_class("engine.singletons", "roll_call").__name__ == "Duty"


def test_a_package_in_the_directory_is_a_plugin(directory: Path) -> None:
    drop(directory, "packed", "from dropped_base import Duty\n")
    drop(directory, "base", GOOD.replace("ENTRY_POINTS", "ELSEWHERE"))
    metadata = directory / "packed-3.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: packed\nVersion: 3.1\n")
    (metadata / "entry_points.txt").write_text("[engine.singletons]\npacked = dropped_packed:Duty\n")
    installed = Installed(directory)
    (found,) = [offer for offer in installed.offers("engine.singletons") if offer.name == "packed"]
    assert (found.origin, found.version) == ("packed", "3.1")
    assert refusals(installed)["packed"] == ""


def test_nothing_of_a_file_is_run_to_see_what_it_offers(directory: Path) -> None:
    drop(directory, "loud", GOOD + "raise SystemExit('it was run')\n")
    assert "loud" in Installed(directory).names("engine.singletons")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD + "raise SystemExit('bye')\n", "cannot be imported: SystemExit: bye"),
        (GOOD + "import no_such_module\n", "cannot be imported: ModuleNotFoundError"),
        (OLD, "written for contract 0, this engine has 1"),
        (
            'ENTRY_POINTS = {"engine.singletons": {"%s": "dict"}}\nfrom builtins import dict\n',
            "is no Singleton",
        ),
        (GOOD.replace('"%s"', '"event_retention"'), "claimed 2 times"),
    ],
)
def test_what_cannot_run_is_told_with_its_reason(directory: Path, text: str, told: str) -> None:
    drop(directory, "bad", text)
    found = refusals(Installed(directory))
    assert told in found.get("bad", found["event_retention"])
    assert found["ha_restart"] == ""


@pytest.mark.parametrize(
    "text", ["ENTRY_POINTS = {1: 2", "ENTRY_POINTS = f()", "ENTRY_POINTS = 3", 'ENTRY_POINTS = {"a": 3}']
)
def test_a_file_that_says_no_sense_is_left_out(
    directory: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    drop(directory, "broken", text)
    drop(directory, "fine")
    assert "fine" in Installed(directory).names("engine.singletons")
    assert "dropped_broken.py" in caplog.text


def test_a_directory_that_others_may_write_to_is_not_used(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    drop(directory, "planted")
    os.chmod(directory, 0o777)
    assert "planted" not in Installed(directory).names("engine.singletons")
    assert "others than its owner can write into it" in caplog.text
    assert str(directory) not in sys.path


def test_only_what_is_allowed_is_let_in(directory: Path) -> None:
    drop(directory, "roll_call")
    installed = Installed(directory, allow=["engine-ha"])
    assert "roll_call" not in installed.names("engine.singletons")
    assert "event_retention" in installed.names("engine.singletons")
    assert refusals(installed)["roll_call"] == "[plugins] allow does not name dropped_roll_call.py"
    only = Installed(directory, allow=["dropped_roll_call.py"])
    assert only.names("engine.singletons") == ["roll_call"]
    with pytest.raises(InvalidInput, match="no plugin event_retention"):
        only.load_class("engine.singletons", "event_retention")


def test_what_was_dropped_in_a_moment_ago_is_found_without_a_writable_home(directory: Path) -> None:
    """stevedore keeps its list by a time of two minutes' resolution; ours is made anew by each process."""
    program = (
        "import sys; from pathlib import Path; from engine.extensions import Installed;"
        "print(*Installed(Path(sys.argv[1])).names('engine.singletons'))"
    )
    environment = {**os.environ, "HOME": "/proc", "XDG_CACHE_HOME": "/proc"}

    def seen() -> list[str]:
        argv = [sys.executable, "-c", program, str(directory)]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert "late" not in seen()
    drop(directory, "late")
    assert "late" in seen()
    (directory / "dropped_late.py").unlink()
    assert "late" not in seen()
