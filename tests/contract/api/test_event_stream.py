"""Events as server-sent events, over gunicorn and real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from falcon.testing import ASGIConductor

from engine.coordination.local import LocalServer
from engine.db import migrate
from tests.contract.api.served import Served, alive, eventually, read, serve, write, write_conf

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
async def conf(tmp_path: Path, zookeeper: LocalServer, cluster_name: str) -> Path:
    url = f"sqlite+aiosqlite:///{tmp_path}/engine.db"
    await migrate.upgrade(url)
    api = "event_streams = 2"
    return write_conf(tmp_path / "engine.conf", hosts=zookeeper.hosts, cluster=cluster_name, url=url, api=api)


@pytest.fixture
async def served(conf: Path) -> AsyncIterator[Served]:
    async with serve(conf, "--workers", "1") as running:
        yield running


async def add_host(served: Served, name: str) -> str:
    body = {"name": name, "address": f"{name}.example", "driver": "vdsm"}
    answer = await served.client.post("/v1/hosts", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def messages(response: httpx.Response) -> AsyncGenerator[dict[str, str]]:
    """Each block of the stream, as its fields; comments stand under ''."""
    block: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            field, _, value = line.partition(":")
            block[field] = value.removeprefix(" ")
        elif block:
            yield block
            block = {}


@asynccontextmanager
async def following(
    served: Served, query: str = "", headers: Mapping[str, str] | None = None
) -> AsyncIterator[AsyncIterator[dict[str, str]]]:
    """The messages of a stream, on a connection of its own."""
    async with (
        asyncio.timeout(60),
        httpx.AsyncClient(base_url=served.client.base_url, timeout=60, trust_env=False) as client,
        client.stream("GET", f"/v1/events{query}", headers={**STREAM, **(headers or {})}) as response,
    ):
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["cache-control"] == "no-store"
        async with aclosing(messages(response)) as found:
            assert await anext(found) == {"retry": "1000"}
            yield found


def told(message: Mapping[str, str]) -> Any:
    document = orjson.loads(message["data"])
    assert message["id"] == document["cursor"]
    return document["message"]


async def test_what_happens_is_told_at_once_and_a_stream_is_resumed_by_its_last_id(served: Served) -> None:
    await add_host(served, "before")
    async with following(served) as stream:
        begun = await anext(stream)
        assert begun.keys() == {"", "id"}, "before the first event a client knows where it is"
        await add_host(served, "one")
        first = await anext(stream)
        assert told(first) == "host one was added"
    await add_host(served, "two")
    async with following(served, headers={"Last-Event-ID": first["id"]}) as stream:
        assert told(await anext(stream)) == "host two was added"
        await add_host(served, "three")
        assert told(await anext(stream)) == "host three was added"
    async with following(served, headers={"Last-Event-ID": begun["id"]}) as stream:
        assert [told(await anext(stream)) for _ in range(3)] == [
            f"host {name} was added" for name in ("one", "two", "three")
        ]


async def test_the_list_names_the_cursor_from_which_a_stream_goes_on(served: Served) -> None:
    await add_host(served, "one")
    listed = (await served.client.get("/v1/events")).json()
    assert [event["message"] for event in listed["events"]] == ["host one was added"]
    await add_host(served, "two")
    async with following(served, f"?after={listed['cursor']}") as stream:
        assert told(await anext(stream)) == "host two was added"


async def test_a_stream_is_narrowed_to_kinds_and_a_host(served: Served) -> None:
    one, two = await add_host(served, "one"), await add_host(served, "two")
    async with following(served, f"?after=0&kind=host_removed&kind=host_updated&host={two}") as stream:
        assert "data" not in await anext(stream)
        for host in (one, two):
            await served.client.patch(f"/v1/hosts/{host}", json={"port": 1})
            await served.client.delete(f"/v1/hosts/{host}")
        assert [told(await anext(stream)) for _ in range(2)] == [
            "host two was changed",
            "host two was removed",
        ]


async def test_a_stream_too_many_is_refused_until_a_client_has_left(served: Served) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(following(served))
        async with following(served):
            refused = await served.client.get("/v1/events", headers=STREAM)
            assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
            assert "takes no more event streams" in refused.json()["detail"]
            assert refused.headers["retry-after"]

        async def room() -> bool:
            async with served.client.stream("GET", "/v1/events", headers=STREAM) as response:
                return response.status_code == 200

        await eventually(room)


async def test_the_api_stops_although_streams_are_open_and_waits_for_none_of_them(conf: Path) -> None:
    write(conf, read(conf) + "graceful_seconds = 15\n")
    async with serve(conf, "--workers", "1") as running, following(running) as one, following(running) as two:
        await anext(one)
        workers = running.workers
        await running.stop()
        left = [message for stream in (one, two) async for message in stream]
        assert all("data" not in message for message in left)
        assert running.process.returncode == 0
        assert alive(workers) == []
        assert "Traceback" not in running.log.read_text()
        assert "Forcing close" not in running.log.read_text()


@pytest.mark.parametrize(
    ("query", "headers", "field"),
    [
        ("", {"Last-Event-ID": "what"}, "Last-Event-ID"),
        ("after=-1", {}, "after"),
        ("limit=3", {}, "limit"),
        ("kind=", {}, "kind"),
    ],
)
async def test_a_stream_that_makes_no_sense_is_refused_naming_the_field(
    api: ASGIConductor, query: str, headers: dict[str, str], field: str
) -> None:
    result = await api.simulate_get("/v1/events", query_string=query, headers={**STREAM, **headers})
    assert (result.status_code, list(result.json["fields"])) == (422, [field])


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/json, text/event-stream;q=0.5"])
async def test_who_does_not_prefer_a_stream_gets_a_page(api: ASGIConductor, accept: str) -> None:
    result = await api.simulate_get("/v1/events", headers={"Accept": accept})
    assert result.json["events"] == []
