"""The state directory of a local cluster: what survives a restart, and who uses it now.

Invariant: one `up` at a time works in a directory (an flock on `lock`, which the kernel drops with
the process). `processes` names the children by pid and start time, so that `engine down` ends
just these, also after their `up` was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import Conflict, InvalidInput
from engine.processes import start_time

PATIENCE_SECONDS = 30.0
"""How long an `up` may take to stop: engines, fleet and ZooKeeper, which it ends in this order, may take
11 s until they are killed in their turn."""
_LEASH_SECONDS = 5.0
_GLANCE_SECONDS = 0.2
"""An `engine down` that looks who is here has the lock for a moment."""


@dataclass(frozen=True, slots=True)
class ProcessName:
    """A process, told from a later one with the same pid by its start time (clock ticks)."""

    role: str
    pid: int
    started: int

    def alive(self) -> bool:
        return start_time(self.pid) == self.started

    def signal(self, number: int) -> bool:
        """Send `number` if it is still this process; whether it was."""
        if not self.alive():
            return False
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(self.pid)
            try:
                if self.alive():  # still: a pid may be another's by now
                    signal.pidfd_send_signal(fd, number)
                    return True
            finally:
                os.close(fd)
        return False


class StateDirectory:
    """Paths within one directory, its lock and its list of processes."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.zookeeper = self.root / "zookeeper"
        self.simulator = self.root / "simulator"
        self.etc = self.root / "etc"
        self.log = self.root / "log"
        self.database = self.root / "engine.db"
        self.secrets_key = self.root / "secrets.key"
        self.endpoint = self.root / "endpoint"
        self._lock = self.root / "lock"
        self._processes = self.root / "processes"

    @property
    def database_url(self) -> str:
        return f"sqlite+aiosqlite:///{self.database}"

    def create(self) -> None:
        """Make the directory and its parts, private to the user."""
        try:
            for path in (self.root, self.zookeeper, self.simulator, self.etc, self.log):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(
                f"the state directory {self.root} cannot be made: {error.strerror}; choose another"
                " with --state-dir"
            ) from error

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the directory. Raises `Conflict` naming the `up` that has it."""
        fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _gone(lambda: not _lock(fd), _GLANCE_SECONDS):
                held = self.holder()
                raise Conflict(
                    f"a cluster already runs in {self.root} (pid {held.pid if held else 'unknown'}):"
                    " stop it with `engine down`, or choose another --state-dir"
                )
            me = {"pid": os.getpid(), "started": start_time(os.getpid())}
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(me).encode(), 0)
            yield
        finally:
            os.close(fd)

    def holder(self) -> ProcessName | None:
        """The `up` that holds the directory, None when nobody does.

        One that has only just begun may not have written its name yet; then the file has the name of
        one before, which is gone: with its start time it is told from a later process of that pid.
        """
        try:
            fd = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            if _lock(fd, fcntl.LOCK_SH):
                return None
            with contextlib.suppress(json.JSONDecodeError, KeyError, TypeError):
                said = json.loads(os.pread(fd, 200, 0))
                return ProcessName("up", int(said["pid"]), int(said["started"]))
            return ProcessName("up", 0, 0)
        finally:
            os.close(fd)

    def write_endpoint(self, endpoint: dict[str, Any]) -> None:
        """Tell the CLI where the API and ZooKeeper are. Replaced in one step, never half written."""
        _replace(self.endpoint, json.dumps(endpoint, indent=1) + "\n")

    def remember(self, processes: list[ProcessName]) -> None:
        _replace(self._processes, json.dumps([[p.role, p.pid, p.started] for p in processes]) + "\n")

    def remembered(self) -> list[ProcessName]:
        """The children that were noted and are still alive."""
        try:
            rows = json.loads(self._processes.read_text())
        except FileNotFoundError:
            return []
        return [name for name in (ProcessName(*row) for row in rows) if name.alive()]


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(path.name + ".new")
    draft.write_text(text)
    draft.chmod(0o600)
    draft.replace(path)


def stop_cluster(directory: StateDirectory, *, patience_seconds: float = PATIENCE_SECONDS) -> list[str]:
    """Stop the `up` of a directory and whatever is left of it; say what was done, a line each."""
    done = []
    told: list[ProcessName] = []

    def running() -> bool:
        up = directory.holder()
        if up is not None and up not in told and up.signal(signal.SIGTERM):
            told.append(up)
        return up is not None

    stopped = _gone(running, patience_seconds)
    for up in told:
        if stopped:
            done.append(f"stopped the cluster (pid {up.pid})")
        elif up.signal(signal.SIGKILL):
            done.append(f"killed the cluster (pid {up.pid}), which did not stop in {patience_seconds:.0f} s")
    # The kernel ends the children of a killed `up`, a moment after it: those are not left over.
    _gone(lambda: bool(directory.remembered()), _LEASH_SECONDS)
    for name in directory.remembered():
        name.signal(signal.SIGKILL)
        done.append(f"ended a left-over {name.role} (pid {name.pid})")
    _gone(lambda: bool(directory.remembered()), _LEASH_SECONDS)
    directory.endpoint.unlink(missing_ok=True)
    return done


def _lock(fd: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Take the lock without waiting; whether it was to be had."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _gone(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until the condition is there no more; False if it still is after so long."""
    deadline = time.monotonic() + seconds
    while condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
