"""The API under gunicorn's asgi worker with a real ZooKeeper: as an operator runs it, and as it fails."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import orjson
import pytest

from engine.api.cluster import ClusterWatch
from engine.clock import utcnow
from engine.coordination.local import LocalServer
from engine.coordination.membership import Member, Membership, join
from engine.coordination.paths import Paths
from engine.coordination.session import Session, SessionSettings, open_session
from engine.db import migrate
from engine.errors import Unavailable
from engine.plugin import EngineId, ShardId
from engine.ports import free_port
from tests.contract.api.served import (
    Served,
    alive,
    eventually,
    read,
    serve,
    start_gunicorn,
    write,
    write_conf,
)


def settings(zookeeper: LocalServer, cluster: str) -> SessionSettings:
    return SessionSettings(
        hosts=zookeeper.hosts, cluster=cluster, timeout_seconds=4, tick_seconds=0.5, connect_seconds=2
    )


def member(engine: str) -> Member:
    return Member(
        engine=EngineId(engine),
        address="127.0.0.1",
        pid=os.getpid(),
        version="0",
        started=utcnow(),
        algorithm=1,
        shards=8,
        partitioner="cooperative",
    )


@asynccontextmanager
async def an_engine(
    zookeeper: LocalServer, cluster: str, name: str
) -> AsyncIterator[tuple[Session, Membership]]:
    async with (
        open_session(settings(zookeeper, cluster)) as session,
        join(session, member(name)) as membership,
    ):
        yield session, membership


async def own(session: Session, engine: str, shard: int) -> None:
    path = session.paths.shard(shard)
    await session.ensure(path)
    await session.set(path, orjson.dumps({"engine": engine}), -1)
    await session.create(session.paths.owner(shard), orjson.dumps({"engine": engine}), ephemeral=True)


@pytest.fixture
async def conf(tmp_path: Path, zookeeper: LocalServer, cluster_name: str) -> Path:
    url = f"sqlite+aiosqlite:///{tmp_path}/engine.db"
    await migrate.upgrade(url)
    return write_conf(tmp_path / "engine.conf", hosts=zookeeper.hosts, cluster=cluster_name, url=url)


@pytest.fixture
async def served(conf: Path) -> AsyncIterator[Served]:
    async with serve(conf, "--workers", "1") as running:
        yield running


async def engines(client: httpx.AsyncClient) -> list[str]:
    return [found["engine"] for found in (await client.get("/v1/members")).json()["members"]]


async def test_members_and_owners_appear_and_vanish_without_a_poll(
    served: Served, zookeeper: LocalServer, cluster_name: str
) -> None:
    assert await engines(served.client) == []
    async with an_engine(zookeeper, cluster_name, "a") as (session, _membership):
        await own(session, "a", 3)

        async def seen() -> bool:
            shard = (await served.client.get("/v1/shards/3")).json()
            return await engines(served.client) == ["a"] and shard["owner"] == "a"

        await eventually(seen)

    async def gone() -> bool:
        shard = (await served.client.get("/v1/shards/3")).json()
        return await engines(served.client) == [] and shard["owner"] is None and shard["last_owner"] == "a"

    await eventually(gone)


async def test_adding_and_removing_a_host_bumps_the_inbox_of_its_shard(
    served: Served, zookeeper: LocalServer, cluster_name: str
) -> None:
    added = (
        await served.client.post("/v1/hosts", json={"name": "alpha", "address": "10.0.0.1", "driver": "vdsm"})
    ).json()
    path = Paths(cluster_name).inbox_shard(added["shard"])
    async with open_session(settings(zookeeper, cluster_name)) as session:
        first = await session.get(path)
        assert first is not None
        assert first.json()["by"] == "api"
        assert (await served.client.delete(f"/v1/hosts/{added['id']}")).status_code == 204
        second = await session.get(path)
        assert second is not None
        assert second.stat.version == first.stat.version + 1


async def test_what_zkcli_writes_to_config_is_shown(
    served: Served, zookeeper: LocalServer, cluster_name: str
) -> None:
    async with open_session(settings(zookeeper, cluster_name)) as session:
        path = f"{session.paths.config}/hosts/tick_seconds"
        await session.ensure(path)
        await session.set(path, b"typed by hand", -1)

    async def shown() -> bool:
        answer = await served.client.get("/v1/config/hosts/tick_seconds")
        return answer.status_code == 200 and answer.json()["value"] == "typed by hand"

    await eventually(shown)


async def test_two_workers_serve_and_count_together(conf: Path) -> None:
    async with serve(conf, "--workers", "2") as running:
        await running.all_serving(2)
        for _ in range(20):  # a fresh connection each, so that both workers get some
            async with httpx.AsyncClient(base_url=running.client.base_url, trust_env=False) as client:
                assert (await client.get("/healthz")).status_code == 200
        line = 'engine_api_requests_total{method="GET",route="/healthz",status="200"} 20.0'
        assert line in (await running.client.get("/metrics")).text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
async def test_it_stops_soon_and_leaves_no_process(
    conf: Path, number: signal.Signals, zookeeper: LocalServer
) -> None:
    async with serve(conf, "--workers", "2") as running:
        await running.all_serving(2)
        assert (await running.client.get("/readyz")).status_code == 200  # and an idle connection stays
        workers = running.workers
        await running.stop(number)
        assert running.process.returncode == 0
        assert alive(workers) == []
        assert list(conf.parent.glob("engine-api-metrics-*")) == []
        assert "Traceback" not in running.log.read_text()


async def test_a_stopped_api_leaves_no_session_behind(
    conf: Path, own_zookeeper: LocalServer, cluster_name: str, tmp_path: Path
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/engine.db"
    write_conf(conf, hosts=own_zookeeper.hosts, cluster=cluster_name, url=url, timeout_seconds=20)
    async with serve(conf, "--workers", "1") as running:
        assert (await running.client.get("/readyz")).status_code == 200
        assert sessions(own_zookeeper) == 1
        await running.stop()
    assert sessions(own_zookeeper) == 0


def sessions(zookeeper: LocalServer) -> int:
    """How many sessions the server keeps."""
    lines = dict(line.split("\t", 1) for line in zookeeper.ask("mntr").splitlines() if "\t" in line)
    return int(lines["zk_global_sessions"])


async def test_a_killed_worker_is_replaced(served: Served) -> None:
    (worker,) = served.workers
    os.kill(worker, signal.SIGKILL)

    async def replaced() -> bool:
        if served.workers in ([], [worker]):
            return False
        try:
            return (await served.client.get("/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    await eventually(replaced)


async def test_workers_end_when_their_parent_is_killed(conf: Path) -> None:
    async with serve(conf, "--workers", "2") as running:
        await running.all_serving(2)
        workers = running.workers
        running.process.kill()
        await running.process.wait()

        async def all_gone() -> bool:
            return not alive(workers)

        await eventually(all_gone)


async def test_without_zookeeper_it_starts_serves_hosts_and_recovers_by_itself(
    own_zookeeper: LocalServer, tmp_path: Path, cluster_name: str
) -> None:
    own_zookeeper.stop()
    url = f"sqlite+aiosqlite:///{tmp_path}/engine.db"
    await migrate.upgrade(url)
    conf = write_conf(tmp_path / "engine.conf", hosts=own_zookeeper.hosts, cluster=cluster_name, url=url)
    async with serve(conf, "--workers", "1") as running:
        client = running.client
        assert (await client.get("/healthz")).status_code == 200
        ready = await client.get("/readyz")
        assert ready.status_code == 503
        assert not ready.json()["checks"]["zookeeper"]["ok"]
        assert ready.json()["checks"]["zookeeper"]["reason"]
        answer = await client.get("/v1/members")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        body = {"name": "alpha", "address": "10.0.0.1", "driver": "vdsm"}
        assert (await client.post("/v1/hosts", json=body)).status_code == 201
        assert (await client.get("/v1/hosts/alpha")).status_code == 200

        await asyncio.to_thread(own_zookeeper.restart)

        async def ready_again() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await eventually(ready_again, 60)
        assert await engines(client) == []


async def test_while_zookeeper_is_away_the_last_snapshot_is_served_and_says_so(
    own_zookeeper: LocalServer, tmp_path: Path, cluster_name: str
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/engine.db"
    await migrate.upgrade(url)
    conf = write_conf(tmp_path / "engine.conf", hosts=own_zookeeper.hosts, cluster=cluster_name, url=url)
    async with serve(conf, "--workers", "1") as running:
        client = running.client
        async with an_engine(own_zookeeper, cluster_name, "a"):

            async def joined() -> bool:
                return await engines(client) == ["a"]

            await eventually(joined)
            own_zookeeper.kill()

        async def stale() -> bool:
            return (await client.get("/readyz")).status_code == 503

        await eventually(stale)
        answer = await client.get("/v1/members")
        assert answer.status_code == 200
        assert [found["engine"] for found in answer.json()["members"]] == ["a"]
        assert answer.json()["stale_since"] == answer.headers["x-stale-since"].replace("+00:00", "Z")
        assert "engine_zookeeper_connected 0.0" in (await client.get("/metrics")).text

        await asyncio.to_thread(own_zookeeper.restart)

        async def current() -> bool:
            answer = await client.get("/v1/members")
            return answer.json()["stale_since"] is None and answer.json()["members"] == []

        await eventually(current, 60)


@pytest.mark.parametrize("address", ["0.0.0.0", "[::]"])
async def test_an_address_that_others_reach_is_refused_before_anything_is_served(
    conf: Path, address: str
) -> None:
    process, log = await start_gunicorn(conf, "--bind", f"{address}:0")
    async with asyncio.timeout(30):
        assert await process.wait() == 1
    text = log.read_text()
    assert "can be reached from other machines" in text
    assert "allow_unauthenticated = true" in text
    assert "Booting worker" not in text
    assert "Traceback" not in text


async def test_an_address_that_others_reach_is_served_where_that_is_allowed(conf: Path) -> None:
    write(conf, read(conf) + "allow_unauthenticated = true\n")
    async with serve(conf, "--workers", "1", address="0.0.0.0") as running:
        assert running.client.base_url.port


async def test_a_port_in_use_ends_it_with_the_reason(conf: Path) -> None:
    async with serve(conf, "--workers", "1") as running:
        write(conf.with_name("second.conf"), read(conf))
        address = f"127.0.0.1:{running.client.base_url.port}"
        process, log = await start_gunicorn(conf.with_name("second.conf"), "--bind", address)
        async with asyncio.timeout(30):
            assert await process.wait() != 0
        assert "Address already in use" in log.read_text() or "in use" in log.read_text()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[api]\nport = http\n", "port"),
        ("[api]\nworkers = 0\n", "workers"),
        ("no section\n", "engine API"),
        ("[database]\nurl = mysql://x\n", "url"),
    ],
)
async def test_a_bad_configuration_ends_it_naming_the_option(conf: Path, text: str, told: str) -> None:
    write(conf, text)
    process, log = await start_gunicorn(conf, "--bind", "127.0.0.1:0")
    async with asyncio.timeout(30):
        assert await process.wait() != 0
    assert told in log.read_text()


async def test_a_configuration_file_that_is_missing_ends_it_naming_the_file(tmp_path: Path) -> None:
    process, log = await start_gunicorn(tmp_path / "nosuch.conf", "--bind", "127.0.0.1:0")
    async with asyncio.timeout(30):
        assert await process.wait() != 0
    assert "nosuch.conf" in log.read_text()
    assert "Traceback" not in log.read_text()


async def test_what_a_killed_api_left_behind_is_removed_by_the_next(conf: Path) -> None:
    async with serve(conf, "--workers", "1") as running:
        workers = running.workers
        (left,) = conf.parent.glob("engine-api-metrics-*")
        running.process.kill()
        await running.process.wait()

        async def all_gone() -> bool:
            return not alive(workers)

        await eventually(all_gone)
    os.utime(left, (0, 0))
    async with serve(conf, "--workers", "1"):
        (present,) = conf.parent.glob("engine-api-metrics-*")
        assert present != left
        os.utime(present, (0, 0))
        write(conf.with_name("second.conf"), read(conf))
        async with serve(conf.with_name("second.conf"), "--workers", "1"):
            assert present.exists()  # its owner lives


async def test_a_large_body_is_refused_without_being_read(served: Served) -> None:
    answer = await served.client.post(
        "/v1/hosts", content=b" " * 2_000_000, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413


async def test_a_chunked_body_is_limited_too(served: Served) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(70):
            yield b" " * 1024

    answer = await served.client.post(
        "/v1/hosts", content=chunks(), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413


async def test_a_client_that_hangs_up_in_the_middle_of_a_body_harms_nobody(served: Served) -> None:
    port = served.client.base_url.port
    _reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /v1/hosts HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await served.client.get("/v1/hosts")).json()["hosts"] == []
    assert "Traceback" not in served.log.read_text()


async def test_the_watch_without_zookeeper_says_why_and_refuses_a_bump(cluster_name: str) -> None:
    nowhere = SessionSettings(hosts=f"127.0.0.1:{free_port()}", cluster=cluster_name, connect_seconds=0.5)
    async with ClusterWatch(nowhere) as watch:
        with pytest.raises(Unavailable, match="not known yet"):
            _ = watch.snapshot
        with pytest.raises(Unavailable):
            await watch.bump(ShardId(0))
