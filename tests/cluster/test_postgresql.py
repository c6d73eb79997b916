"""Three engines on PostgreSQL, under load, while engines and the database come and go."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from engine.db.local_postgres import LocalPostgres
from engine.local_cluster.cluster import LocalCluster
from engine.local_cluster.layout import Layout
from engine.local_cluster.state import StateDirectory
from tests.cluster.conftest import Workplace, eventually

pytestmark = pytest.mark.timeout(240)

FLEET = 12


class Client:
    """Adds hosts one after another, and remembers which were acknowledged."""

    def __init__(self, api: str) -> None:
        self.acknowledged: set[str] = set()
        self.refused = 0
        self._http = httpx.Client(base_url=api, trust_env=False, timeout=30)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="client")
        self._thread.start()

    def _work(self) -> None:
        number = 0
        while not self._over.wait(0.05):
            number += 1
            host = {"name": f"extra-{number}", "address": "127.0.0.1", "port": number, "driver": "vdsm"}
            try:
                answer = self._http.post("/v1/hosts", json=host)
            except httpx.TransportError:
                continue
            if answer.status_code == 201:
                self.acknowledged.add(f"extra-{number}")
            else:
                assert answer.status_code == 503, answer.text
                self.refused += 1

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._http.close()


class Site:
    """A running cluster, asked through its API."""

    def __init__(self, api: str) -> None:
        self.api = api
        self.http = httpx.Client(base_url=api, trust_env=False, timeout=30)

    def get(self, path: str) -> dict[str, list[dict[str, object]]]:
        answer = self.http.get(path)
        return dict(answer.json()) if answer.status_code == 200 else {}

    def databases(self) -> set[object]:
        return {member["db"] for member in self.get("/v1/members").get("members", [])}

    def fleet(self) -> dict[str, object]:
        hosts = self.get("/v1/hosts?name=host-*&limit=1000").get("hosts", [])
        return {str(host["name"]): host["status"] for host in hosts}

    def reports(self) -> dict[str, object]:
        hosts = self.get("/v1/hosts?name=host-*&limit=1000").get("hosts", [])
        return {str(host["name"]): host["reported_at"] for host in hosts}

    def all_report_anew(self) -> None:
        """Every host of the fleet is up, and what it says is written again."""
        before = {}

        def known() -> bool:
            before.update(self.reports())
            return len(before) == FLEET

        def anew() -> bool:
            now = self.reports()
            return len(now) == FLEET and all(now[name] != before[name] for name in before)

        eventually(known, what="the API answers")
        eventually(anew, seconds=90, what="every host is reported on again")
        assert set(self.fleet().values()) == {"up"}


@pytest.fixture
async def site(tmp_path: Path, own_postgres: LocalPostgres) -> AsyncIterator[Site]:
    layout = Layout(
        engines=3,
        hosts=FLEET,
        api_port=0,
        zk_port=0,
        host_port=0,
        tick_seconds=1.0,
        statistics_seconds=2.0,
        database_url=own_postgres.url(),
    )
    async with LocalCluster(layout, StateDirectory(tmp_path / "state"), progress=lambda _: None) as cluster:
        await cluster.ready()
        site = Site(cluster.api_url)
        yield site
        site.http.close()


@pytest.fixture
def client(site: Site) -> Iterator[Client]:
    client = Client(site.api)
    yield client
    client.close()


async def test_hosts_outlive_an_engine_and_the_database_and_nothing_acknowledged_is_lost(
    site: Site, client: Client, own_postgres: LocalPostgres
) -> None:
    victim = site.get("/v1/members")["members"][0]
    os.kill(int(str(victim["pid"])), signal.SIGKILL)
    eventually(
        lambda: victim["pid"] not in {m["pid"] for m in site.get("/v1/members")["members"]},
        what="its place is taken",
    )
    site.all_report_anew()

    own_postgres.restart()
    site.all_report_anew()

    own_postgres.kill()
    eventually(lambda: site.databases() == {"down"}, what="all engines notice")
    own_postgres.start()
    eventually(lambda: site.databases() == {"ok"}, what="all engines are back")
    site.all_report_anew()

    own_postgres.freeze()
    eventually(lambda: site.databases() == {"down"}, what="all engines notice")
    own_postgres.thaw()
    eventually(lambda: site.databases() == {"ok"}, what="all engines are back")
    site.all_report_anew()

    client.close()
    assert client.acknowledged
    assert {
        name for name in client.acknowledged if not site.http.get(f"/v1/hosts/{name}").is_success
    } == set()
    told = site.get("/v1/events?kind=host_status&limit=1000")["events"]
    lost = [event for event in told if "host-" in str(event["message"]) and not _good(event)]
    assert not lost, "the trouble of engines and the database is none of the hosts'"


def test_a_database_of_another_kind_is_refused_by_name(workplace: Workplace) -> None:
    done = workplace.run("up", "--state-dir", str(workplace.state), "--database-url", "mysql://x/y")
    assert done.returncode == 1
    assert "--database-url: mysql://x/y" in done.stderr


def _good(event: dict[str, object]) -> bool:
    data = event["data"]
    assert isinstance(data, dict)
    return data["to"] in ("up", "initializing", "unassigned")
