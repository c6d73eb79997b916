"""Who has the write lock of an SQLite file, and whether that is a process whose session is over.

The lock is the kernel's and belongs to a process: a frozen engine that is in the middle of a transaction
keeps its heir from writing for as long as it lives. So each process says in a file beside the database
for which ZooKeeper session it works; the heir of that session kills it if, and only if, it has the
lock. Pid and start time name it, so that a later process with the same pid is left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from pathlib import Path

from engine.processes import start_time

LOG = logging.getLogger(__name__)

_LOCKS = Path("/proc/locks")
_WRITE_LOCK_BYTE = 120
"""Of the shared memory's file, WAL_WRITE_LOCK. Source: https://www.sqlite.org/walformat.html#locks"""
_LOOK_AGAIN_SECONDS = 0.2
"""A transaction of a process that is alive is over by then."""


class Writers:
    """Of one database file; `path` is the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mine: Path | None = None

    def work_for(self, session: int | None) -> None:
        """From now on this process works for this session."""
        self.close()
        started = start_time(os.getpid())
        if session is None or started is None:
            return
        mine = self._file(session)
        mine.write_text(f"{os.getpid()} {started}\n")
        self._mine = mine

    def close(self) -> None:
        if self._mine is not None:
            self._mine.unlink(missing_ok=True)
            self._mine = None

    async def end(self, session: int) -> int:
        """Kill whoever works for this session, which is over, and has the lock; how many that were."""
        path = self._file(session)
        try:
            pid, started = (int(word) for word in path.read_text().split())
        except (FileNotFoundError, ValueError):
            return 0
        ended = 0
        if self._has_lock(pid, started):
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
            if self._has_lock(pid, started) and pid != os.getpid():
                LOG.warning(
                    "pid %d worked for session=%x, which is over, and has the write lock", pid, session
                )
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                ended = 1
        path.unlink(missing_ok=True)
        return ended

    def _file(self, session: int) -> Path:
        return self._path.with_name(f"{self._path.name}-session-{session & 0xFFFF_FFFF_FFFF_FFFF:x}")

    def _has_lock(self, pid: int, started: int) -> bool:
        return start_time(pid) == started and has_write_lock(self._path, pid)


def has_write_lock(path: Path, pid: int) -> bool:
    """Whether this process is in the middle of a writing transaction of this database file."""
    try:
        inode = path.with_name(f"{path.name}-shm").stat().st_ino
        locks = _LOCKS.read_text()
    except OSError:
        return False
    return any(_is_write_lock(line, pid, inode) for line in locks.splitlines())


def _is_write_lock(line: str, pid: int, inode: int) -> bool:
    """`1: POSIX  ADVISORY  WRITE 4711 08:01:123456 120 120`; whoever waits for one has an arrow (proc(5))."""
    words = line.split()
    if len(words) != 8 or words[1] != "POSIX" or words[3] != "WRITE" or words[4] != str(pid):
        return False
    first, last = int(words[6]), int(words[7]) if words[7].isdigit() else _WRITE_LOCK_BYTE
    return words[5].rpartition(":")[2] == str(inode) and first <= _WRITE_LOCK_BYTE <= last
