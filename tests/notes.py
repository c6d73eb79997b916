"""A plugin for engines that tests start: a task that notes each start of its own in a file, at once.

`noting` installs it for the processes that are started while the body runs (PYTHONPATH); `notes_in` reads
what was noted. A line is appended with one write, so a SIGKILL loses nothing that was started.
"""

from __future__ import annotations

import contextlib
import os
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

_MODULE = textwrap.dedent(
    '''
    """See tests/notes.py."""

    import asyncio
    import os
    import time
    from dataclasses import dataclass

    from engine.plugin import Task, argument

    _file = None


    def milliseconds(value):
        if isinstance(value, int):
            return value
        raise ValueError("must be a number of milliseconds")


    @dataclass(frozen=True, slots=True)
    class NotedArguments:
        sleep: int = argument(milliseconds, default=0, help="how long it takes")


    class Noted(Task):
        arguments_type = NotedArguments
        timeout_seconds = 3600.0

        async def run(self, context, arguments):
            global _file
            line = f"{context.key} {context.planned_at.isoformat()} {time.time()!r} {os.getpid()}\\n"
            if _file is None:
                path = os.path.join(os.environ["TEST_NOTES"], str(os.getpid()))
                _file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.write(_file, line.encode())
            if arguments.sleep:
                await asyncio.sleep(arguments.sleep / 1000)
    '''
)


@dataclass(frozen=True, slots=True)
class Note:
    """One start: of which run, when (seconds since 1970), in which process."""

    job: str
    planned_at: datetime
    at: float
    pid: int

    @property
    def late(self) -> float:
        """Seconds from when it was planned."""
        return self.at - self.planned_at.timestamp()


@contextlib.contextmanager
def noting(directory: Path) -> Iterator[Path]:
    """The directory of the notes; engines started in the body have the task `noted`."""
    plugin, notes = directory / "plugin", directory / "notes"
    distribution = plugin / "noted_jobs-1.dist-info"
    distribution.mkdir(parents=True)
    notes.mkdir()
    (plugin / "noted_jobs.py").write_text(_MODULE)
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: noted-jobs\nVersion: 1\n")
    (distribution / "entry_points.txt").write_text("[engine.tasks]\nnoted = noted_jobs:Noted\n")
    changes = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(plugin), os.environ.get("PYTHONPATH")])),
        "TEST_NOTES": str(notes),
    }
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield notes
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def notes_in(directory: Path) -> list[Note]:
    """All that was noted so far, in the order of time."""
    found = []
    for path in directory.iterdir():
        for line in path.read_text().splitlines():
            job, planned, at, pid = line.split()
            found.append(Note(job, datetime.fromisoformat(planned), float(at), int(pid)))
    return sorted(found, key=lambda note: note.at)
