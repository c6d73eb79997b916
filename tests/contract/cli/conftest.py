"""The program `engine` as a user types it, and a real API: gunicorn over a real database and ZooKeeper."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.cli.main import main
from engine.coordination.local import LocalServer
from engine.coordination.settings import SessionSettings
from engine.db import migrate
from engine.ports import free_port
from engine.processes import leashed

SHARDS = 16
START_SECONDS = 60.0


@dataclass(frozen=True)
class Run:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


@dataclass(frozen=True)
class RunningApi:
    url: str
    settings: SessionSettings
    database: str


Engine = Callable[..., Run]


def run_engine(*arguments: str, **environ: str) -> Run:
    """Run `engine` with nothing of this user's environment but the PATH."""
    done = subprocess.run(
        [sys.executable, "-m", "engine.cli.main", *arguments],
        env={"PATH": os.environ["PATH"], "TZ": "UTC", "LANG": "C.UTF-8", **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Run(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def api(zookeeper: LocalServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """An API whose cluster no engine has joined, shared by a module's tests."""
    directory = tmp_path_factory.mktemp("cli-api")
    settings = SessionSettings(hosts=zookeeper.hosts, cluster=f"cli-{os.getpid()}", tick_seconds=0.5)
    database = f"sqlite+aiosqlite:///{directory / 'engine.db'}"
    asyncio.run(migrate.upgrade(database))
    config = directory / "engine.conf"
    config.write_text(
        f"[coordination]\nhosts = {settings.hosts}\ncluster = {settings.cluster}\ntick_seconds = 0.5\n"
        f"[database]\nurl = {database}\n[sharding]\nshards = {SHARDS}\n[api]\nworkers = 1\n"
    )
    url = f"http://127.0.0.1:{free_port()}"
    argv = [sys.executable, "-m", "gunicorn", "-c", "python:engine.api.gunicorn"]
    argv += ["--bind", url.removeprefix("http://"), "engine.api.app:from_environment()"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            leashed(argv), env={**os.environ, "ENGINE_CONFIG_FILE": str(config)}, stdout=log, stderr=log
        )
    try:
        _wait_until_ready(url, process, directory / "log")
        yield RunningApi(url, settings, database)
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if httpx.get(f"{url}/v1/status", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the API did not start:\n{log.read_text()}")
        time.sleep(0.05)


@pytest.fixture
def engine(api: RunningApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The program, which finds the API of `api` through a state directory, as after `engine up`.

    It runs in this process, which saves half a second a command.
    """
    state = tmp_path / "engine-ha"
    state.mkdir()
    (state / "endpoint").write_text(json.dumps({"api": api.url, "zookeeper": api.settings.hosts}))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("ENGINE_API_URL", raising=False)
    return run_here


def run_here(*arguments: str) -> Run:
    out, err = io.StringIO(), io.StringIO()
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
    except SystemExit as ended:  # argparse
        code = ended.code if isinstance(ended.code, int) else 0
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
    return Run(code, out.getvalue(), err.getvalue())
