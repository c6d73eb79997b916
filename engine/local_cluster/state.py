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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import Conflict, InvalidInput


@dataclass(frozen=True, slots=True)
class ProcessName:
    """A process, told from a later one with the same pid by its start time (clock ticks)."""

    role: str
    pid: int
    started: int

    def alive(self) -> bool:
        return start_time(self.pid) == self.started

    def signal(self, number: int) -> None:
        """Send `number` if it is still this process."""
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(self.pid)
            try:
                if self.alive():
                    signal.pidfd_send_signal(fd, number)
            finally:
                os.close(fd)


def start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat, or None for a process that is gone or a zombie (proc(5))."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


class StateDirectory:
    """Paths within one directory, its lock and its list of processes."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.zookeeper = self.root / "zookeeper"
        self.simulator = self.root / "simulator"
        self.etc = self.root / "etc"
        self.log = self.root / "log"
        self.database = self.root / "engine.db"
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
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(
                    f"a cluster already runs in {self.root} (pid {self.holder() or 'unknown'}):"
                    " stop it with `engine down`, or choose another --state-dir"
                ) from None
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps({"pid": os.getpid()}).encode(), 0)
            yield
        finally:
            os.close(fd)

    def holder(self) -> int | None:
        """The pid of the `up` that holds the directory, None when nobody does."""
        try:
            fd = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = os.pread(fd, 200, 0)
                return int(json.loads(text)["pid"]) if text else None
            return None
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


def stop_cluster(directory: StateDirectory, *, patience_seconds: float = 10.0) -> list[str]:
    """Stop the `up` of a directory and whatever is left of it; say what was done, a line each."""
    done = []
    if pid := directory.holder():
        started = start_time(pid)
        os.kill(pid, signal.SIGTERM)
        if not _gone(lambda: directory.holder() is None, patience_seconds) and started is not None:
            ProcessName("up", pid, started).signal(signal.SIGKILL)
            _gone(lambda: directory.holder() is None, 5.0)
            done.append(f"killed the cluster (pid {pid}), which did not stop in {patience_seconds:.0f} s")
        else:
            done.append(f"stopped the cluster (pid {pid})")
    left = directory.remembered()
    for name in left:
        name.signal(signal.SIGKILL)
        done.append(f"ended a left-over {name.role} (pid {name.pid})")
    _gone(lambda: not directory.remembered(), 5.0)
    directory.endpoint.unlink(missing_ok=True)
    return done


def _gone(condition: Any, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
