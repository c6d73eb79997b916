"""The API as it is deployed: gunicorn in processes of its own, its log in a file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import httpx

from engine.clock import boottime
from engine.processes import leashed

ROOT = Path(__file__).resolve().parents[3]
START_SECONDS = 30.0

T = TypeVar("T")


def write_conf(
    path: Path,
    *,
    hosts: str,
    cluster: str,
    url: str,
    shards: int = 8,
    timeout_seconds: float = 4.0,
    api: str = "",
) -> Path:
    path.write_text(
        f"[coordination]\nhosts = {hosts}\ncluster = {cluster}\ntick_seconds = 0.5\n"
        f"timeout_seconds = {timeout_seconds}\nconnect_seconds = 2\n"
        f"[database]\nurl = {url}\n[sharding]\nshards = {shards}\n[api]\n{api}\n"
    )
    return path


def read(path: Path) -> str:
    return path.read_text()


def write(path: Path, text: str) -> None:
    path.write_text(text)


def alive(pids: list[int]) -> list[int]:
    """Those that still exist."""
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


class Served:
    """A running gunicorn. `client` talks to it."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, client: httpx.AsyncClient) -> None:
        self.process = process
        self.log = log
        self.client = client

    @property
    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    async def all_serving(self, count: int) -> None:
        """Return when `count` workers serve; a signal before that would be lost in gunicorn."""

        async def serving() -> bool:
            return len(self.workers) == count and read(self.log).count("ASGI server listening") >= count

        await eventually(serving)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Signal it and wait for its end; the seconds that took."""
        began = boottime()
        self.process.send_signal(number)
        async with asyncio.timeout(20):
            await self.process.wait()
        return boottime() - began


async def start_gunicorn(
    conf: Path, *arguments: str, application: str = "engine.api.app:from_environment()"
) -> tuple[asyncio.subprocess.Process, Path]:
    log = conf.with_suffix(".log")
    argv = [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "etc/engine/gunicorn.conf.py"), *arguments]
    environment = os.environ | {
        "ENGINE_CONFIG_FILE": str(conf),
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(conf.parent),
    }
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *leashed([*argv, application]), cwd=conf.parent, env=environment, stdout=output, stderr=output
        )
    return process, log


@contextlib.asynccontextmanager
async def serve(
    conf: Path, *arguments: str, address: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Served]:
    """Run gunicorn, on a free port unless one is named, until the context ends."""
    process, log = await start_gunicorn(conf, "--bind", f"{address}:{port}", *arguments)
    try:
        base = await eventually(lambda: listening(log, process))
        async with httpx.AsyncClient(base_url=base, timeout=10, trust_env=False) as client:
            yield Served(process, log, client)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def listening(log: Path, process: asyncio.subprocess.Process) -> str:
    """The URL that gunicorn says it listens at; empty while it does not say so."""
    text = read(log)
    assert process.returncode is None, text
    found = re.search(r"Listening at: (http://[^ ]+)", text)
    # The parent's socket listens before a worker serves.
    return found[1] if found and "ASGI server listening" in text else ""


async def eventually(probe: Callable[[], Awaitable[T]], seconds: float = START_SECONDS) -> T:
    """The first true value of `probe`."""
    async with asyncio.timeout(seconds):
        while True:
            if found := await probe():
                return found
            await asyncio.sleep(0.02)
