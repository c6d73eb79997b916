"""`engine events list --follow` beside an API that loses its worker, and one that stops."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from engine.coordination.local import LocalServer
from engine.db import migrate
from engine.processes import leashed
from tests.contract.api.served import Served, eventually, serve, write_conf


@pytest.fixture
async def conf(tmp_path: Path, zookeeper: LocalServer, cluster_name: str) -> Path:
    url = f"sqlite+aiosqlite:///{tmp_path}/engine.db"
    await migrate.upgrade(url)
    return write_conf(tmp_path / "engine.conf", hosts=zookeeper.hosts, cluster=cluster_name, url=url)


@asynccontextmanager
async def following(served: Served, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    argv = [sys.executable, "-m", "engine.cli.main", "events", "list", "--follow", *arguments]
    argv += ["--api-url", str(served.client.base_url)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*leashed(argv), stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(60):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    assert process.stderr is not None
    found = (await process.stdout.readline()).decode().rstrip("\n")
    assert found, (await process.stderr.read()).decode()
    return found


async def document(process: asyncio.subprocess.Process) -> Any:
    return orjson.loads(await line(process))


async def add_host(served: Served, name: str) -> None:
    body = {"name": name, "address": f"{name}.example", "driver": "vdsm"}
    assert (await served.client.post("/v1/hosts", json=body)).status_code == 201


async def test_what_was_and_what_happens_is_printed_once_over_the_death_of_a_worker(conf: Path) -> None:
    async with serve(conf, "--workers", "1") as served:
        await add_host(served, "before")
        async with following(served, "-f", "json") as process:
            assert (await document(process))["message"] == "host before was added"
            for number in range(3):
                await add_host(served, f"first-{number}")
                assert (await document(process))["message"] == f"host first-{number} was added"
            (worker,) = served.workers
            os.kill(worker, signal.SIGKILL)

            async def added() -> bool:
                try:
                    await add_host(served, "meanwhile")
                except httpx.TransportError:
                    return False
                return True

            await eventually(added)
            await add_host(served, "last")
            assert (await document(process))["message"] == "host meanwhile was added"
            assert (await document(process))["message"] == "host last was added"


async def test_it_goes_on_when_the_api_is_back_and_ends_with_ctrl_c(conf: Path) -> None:
    async with serve(conf, "--workers", "1") as served:
        port = served.client.base_url.port or 0
        await add_host(served, "one")
        async with following(served, "--kind", "host_added") as process:
            assert "host one was added" in await line(process)
            await served.stop()
            async with serve(conf, "--workers", "1", port=port) as again:
                await add_host(again, "two")
                assert "host two was added" in await line(process)
                process.send_signal(signal.SIGINT)
                out, _err = await process.communicate()
            assert (process.returncode, out) == (130, b"")


async def test_a_format_that_is_no_stream_of_lines_is_refused(conf: Path) -> None:
    async with serve(conf, "--workers", "1") as served, following(served, "-f", "yaml") as process:
        _out, err = await process.communicate()
        assert process.returncode == 1
        assert "--follow prints lines" in err.decode()
