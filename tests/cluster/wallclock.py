"""Engines whose wall clocks can be set while they run: libfaketime is put in front of the C library.

Each engine has a file with the seconds by which its wall clock is wrong; its monotonic clocks are left
alone, as when somebody sets the time of a machine. The database, ZooKeeper and the test keep the true time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from engine.local_cluster.children import Child, spawn
from engine.local_cluster.cluster import LocalCluster
from engine.local_cluster.layout import write_configuration

_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
_PATCH = '''"""libfaketime 0.9.10 takes the moment until which clock_nanosleep waits for one on the wall
clock, whichever clock it is on, and time.sleep fails with EINVAL then. So sleeping goes by another call."""

import select
import time

time.sleep = lambda seconds: select.select([], [], [], seconds) and None
'''


class JumpingCluster(LocalCluster):
    """`jump` sets the wall clock of one engine, its supervisor's with it."""

    async def __aenter__(self) -> Self:
        assert _LIBRARIES, "libfaketime is missing: install the package that bindep.txt names for tests"
        patch = self._clocks / "patch"
        patch.mkdir(parents=True)
        (patch / "sitecustomize.py").write_text(_PATCH)
        return await super().__aenter__()

    async def __aexit__(self, *error: object) -> None:
        started = [child.pid for child in self.engines.values()]
        await super().__aexit__(*error)  # type: ignore[arg-type]
        _forget(started)

    def jump(self, engine: str, seconds: float) -> None:
        """From now on this engine's wall clock is wrong by so much."""
        file = self._clocks / engine
        draft = file.with_suffix(".draft")
        draft.write_text(f"{seconds:+.0f}\n")
        draft.rename(file)

    async def start_engine(self, name: str) -> Child:
        assert self.zookeeper is not None
        path = write_configuration(
            self.directory.etc / f"{name}.conf",
            self.layout,
            self.directory,
            zookeeper=self.zookeeper.hosts,
            name=name,
        )
        self.jump(name, 0)
        argv = [sys.executable, "-m", "engine.supervisor", "--config-file", str(path)]
        log = self.directory.log / f"{name}.log"
        child = await spawn(name, argv, log=log, environment=self._environment(name))
        self.engines[name] = child
        return child

    @property
    def _clocks(self) -> Path:
        return self.directory.root / "clocks"

    def _environment(self, name: str) -> Mapping[str, str]:
        places = [str(self._clocks / "patch"), os.environ.get("PYTHONPATH")]
        return {
            "LD_PRELOAD": str(_LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._clocks / name),
            "FAKETIME_CACHE_DURATION": "1",  # read again after so many seconds
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, places)),
        }


def _forget(pids: Sequence[int]) -> None:
    """What libfaketime shares between processes outlives those that end at once."""
    for pid in pids:
        for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
            Path("/dev/shm", name).unlink(missing_ok=True)
