"""The processes of a local cluster: started on a leash, stopped in order, logged into files.

A child that ends by itself while the cluster runs is a fault, and is told to whoever waits on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.errors import EngineError
from engine.local_cluster.state import ProcessName
from engine.processes import leashed, start_time


class ChildFailed(EngineError):
    """A process of the cluster ended, or did not become ready; the message ends with its last lines."""


class Child:
    """One running process with its own process group and log file."""

    def __init__(self, role: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.role = role
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def name(self) -> ProcessName:
        return ProcessName(self.role, self.pid, start_time(self.pid) or 0)

    def send(self, number: int) -> None:
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def stop(self, *, seconds: float) -> None:
        """SIGTERM, and after `seconds` SIGKILL to its whole group."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(seconds):
                await self.process.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        await self.process.wait()

    def failure(self, what: str) -> ChildFailed:
        """`what` with the end of the log, for the user."""
        return ChildFailed(f"{self.role} {what}; its log {self.log} ends:\n{log_tail(self.log)}")


async def spawn(
    role: str,
    argv: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    pipe: bool = False,
) -> Child:
    """Start `argv` so that it dies with this process; `pipe` keeps its standard output readable."""
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *leashed(argv),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if pipe else file,
            stderr=file,
            env={**os.environ, **(environment or {})},
            process_group=0,
        )
    return Child(role, process, log)


def log_tail(path: Path, lines: int = 12) -> str:
    """The last lines of a log, indented."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16384))
        text = file.read().decode(errors="replace")
    return "\n".join("  " + line for line in text.splitlines()[-lines:]) or "  (empty)"
