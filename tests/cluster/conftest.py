"""Real processes: `engine` commands run as a user runs them, on free ports, in tmp_path."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.processes import leashed

ENGINE = [sys.executable, "-m", "engine.cli.main"]
START_SECONDS = 90.0
FREE_PORTS = ["--api-port", "0", "--zk-port", "0", "--host-port", "0"]


class Command:
    """A running `engine ...`, with its output read as it comes."""

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            leashed(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="reader")
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def says(self, wanted: Callable[[str], bool], *, seconds: float = START_SECONDS) -> str:
        """The first line that is `wanted`; fails with all output when none comes."""

        def found() -> bool:
            return any(wanted(line) for line in self.lines) or self.process.poll() is not None

        with self._changed:
            self._changed.wait_for(found, timeout=seconds)
            for line in self.lines:
                if wanted(line):
                    return line
        raise AssertionError(f"it never said so; it said:\n{self.output}")

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait(self, *, seconds: float = START_SECONDS) -> int:
        status = self.process.wait(seconds)
        self._reader.join(5)
        return status

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(5)


class Workplace:
    """A state directory and the commands that work in it."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.environment = {**os.environ, "HOME": str(directory), "COLUMNS": "200"}
        self.environment.pop("XDG_STATE_HOME", None)
        self._running: list[Command] = []

    def start(self, *arguments: str, **environment: str) -> Command:
        command = Command([*ENGINE, *arguments], {**self.environment, **environment})
        self._running.append(command)
        return command

    def up(self, *arguments: str) -> Command:
        """A ready cluster of two engines and six hosts."""
        options = ["--engines", "2", "--hosts", "6", *FREE_PORTS, *arguments]
        command = self.start("up", "--state-dir", str(self.state), *options)
        command.says(lambda line: line.startswith("ready"))
        return command

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """One `engine ...` to its end."""
        return subprocess.run(
            [*ENGINE, *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )

    def ask(self, *arguments: str) -> Any:
        """The JSON answer of a read-only command."""
        done = self.run(*arguments, "--state-dir", str(self.state), "-f", "json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def processes(self) -> list[tuple[str, int]]:
        """Role and pid of the children that `up` noted."""
        return [(role, pid) for role, pid, _ in json.loads((self.state / "processes").read_text())]

    def close(self) -> None:
        for command in self._running:
            command.close()
        subprocess.run([*ENGINE, "down", "--state-dir", str(self.state)], env=self.environment, check=False)


@pytest.fixture
def workplace(tmp_path: Path) -> Iterator[Workplace]:
    place = Workplace(tmp_path)
    yield place
    place.close()


def eventually(condition: Callable[[], bool], *, seconds: float = 30.0, what: str = "") -> None:
    """Wait until `condition`; polling, since it is asked of other processes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        threading.Event().wait(0.05)
