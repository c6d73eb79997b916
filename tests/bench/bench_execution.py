"""Calls between engines, each in a process of its own, over loopback: to the owner of a key, and to all.

The peer is a bare POST of as many bytes through httpx, answered in the same process: what a call over
HTTP costs at least with the client that the command line uses. `call_all` is measured with a task that
sleeps, so that what is added to the slowest shows. Prints `name: value unit`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
from aiohttp import web

from engine.coordination.local import LocalServer
from engine.db import migrate
from engine.db.database import Database
from engine.plugin import OwnerOf
from tests.contract.coordination.conftest import settings_for, until
from tests.contract.execution.engines import SHARDS, Engine, engine_on
from tests.contract.execution.test_frozen import keys_of, process_of

SESSION_SECONDS = 10.0
NAP_MS = 100


def say(name: str, value: float, unit: str) -> None:
    print(f"{name}: {value:.4g} {unit}", flush=True)


async def timed(rounds: int, action: Callable[[], Awaitable[object]]) -> list[float]:
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        await action()
        taken.append(time.perf_counter() - began)
    return sorted(taken)


def tell(name: str, taken: list[float]) -> None:
    say(f"{name}_p50", statistics.median(taken) * 1e3, "ms")
    say(f"{name}_p99", taken[int(len(taken) * 0.99)] * 1e3, "ms")


async def measure(one: Engine, rounds: int) -> None:
    key = keys_of(one, "c0")[0]

    async def owner() -> None:
        assert await one.calls.call("whose", on=OwnerOf(key)) == "c0"

    async def all_nap() -> int:
        return len([a async for a in one.calls.call_all("nap", {"ms": NAP_MS}) if a.error is None])

    async def many() -> None:
        await asyncio.gather(*(owner() for _ in range(32)))

    await timed(20, owner)
    tell("call.owner", await timed(rounds, owner))
    taken = await timed(max(3, rounds // 20), many)
    say("call.owner_rate", 32 / statistics.median(taken), "calls/s")
    members = len(one.membership.members)
    assert await all_nap() == members
    over = [seconds - NAP_MS / 1e3 for seconds in await timed(max(3, rounds // 20), all_nap)]
    say(f"call_all.{members}_engines_over_the_slowest", statistics.median(over) * 1e3, "ms")


@contextlib.asynccontextmanager
async def bare_server() -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=b'{"result":"c0"}', content_type="application/json")

    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


async def bare(rounds: int) -> None:
    async with bare_server() as url, httpx.AsyncClient(trust_env=False) as client:
        body = b"x" * 160

        async def post() -> None:
            await client.post(url, content=body)

        await timed(20, post)
        tell("httpx.bare_post_same_process", await timed(rounds, post))


async def run(server: LocalServer, directory: Path, engines: int, rounds: int) -> None:
    url = f"sqlite+aiosqlite:///{directory / 'engine.db'}"
    await migrate.upgrade(url)
    settings = settings_for(server.hosts, "bench", timeout_seconds=SESSION_SECONDS)
    async with contextlib.AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database(url))
        one = await stack.enter_async_context(engine_on(settings, "a", database))
        for number in range(engines - 1):
            await stack.enter_async_context(process_of(f"c{number}", settings, database))
        await until(lambda: len(one.ownership.owned) == -(-SHARDS // engines), seconds=30)
        await until(lambda: bool(keys_of(one, "c0")), seconds=30)
        await bare(rounds)
        await measure(one, rounds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engines", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    if arguments.smoke:
        arguments.engines, arguments.rounds = 2, 20
    with tempfile.TemporaryDirectory() as name, LocalServer(Path(name) / "zookeeper") as server:
        asyncio.run(run(server, Path(name), arguments.engines, arguments.rounds))


if __name__ == "__main__":
    main()
