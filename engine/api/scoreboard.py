"""The directory in which the workers of one gunicorn count their requests together.

Made by the parent before it forks, named to prometheus_client by PROMETHEUS_MULTIPROC_DIR, removed
when the parent ends. Parent and workers hold a shared lock on it; what nobody holds was left by one
that was killed, and is removed by the next to start. May not import prometheus_client, which reads the
variable when it is imported.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_PREFIX = "engine-api-metrics-"
_TOO_YOUNG_SECONDS = 60.0
"""Between its making and its lock a directory is held by nobody."""


class Scoreboard:
    """Opened where the operator has not named a directory of his own."""

    def __init__(self) -> None:
        _sweep()
        self._directory = tempfile.mkdtemp(prefix=_PREFIX)
        self._lock = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        os.environ[VARIABLE] = self._directory

    def remove(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
        os.close(self._lock)


def _sweep() -> None:
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            if time.time() - left.stat().st_mtime > _TOO_YOUNG_SECONDS and _abandoned(left):
                shutil.rmtree(left, ignore_errors=True)
        except OSError:  # another one's, or gone already
            continue


def _abandoned(directory: Path) -> bool:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
