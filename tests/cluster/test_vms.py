"""Ten VMs run and move while engines are killed: no command is lost, no VM is created twice."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import httpx
import pytest

from plugins.simulator.log import read_requests
from tests.cluster.conftest import Workplace, eventually

VMS = 10

pytestmark = pytest.mark.timeout(240)


class Client:
    def __init__(self, workplace: Workplace) -> None:
        endpoint = json.loads((workplace.state / "endpoint").read_text())
        self._http = httpx.Client(base_url=endpoint["api"], timeout=60.0, trust_env=False)

    def get(self, path: str) -> Any:
        return self._http.get(path).raise_for_status().json()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        response = self._http.post(path, json=body)
        assert response.is_success, response.text
        return response.json()

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        response = self._http.patch(path, json=body)
        assert response.is_success, response.text
        return response.json()

    def all_end(self, commands: list[dict[str, Any]]) -> None:
        def ended() -> bool:
            states = {command["id"]: self.get(f"/v1/commands/{command['id']}") for command in commands}
            stuck = [each for each in states.values() if each["state"] == "needs_operator"]
            assert not stuck, stuck
            return all(each["ended_at"] for each in states.values())

        eventually(ended, seconds=90, what="every command ends")
        for command in commands:
            found = self.get(f"/v1/commands/{command['id']}")
            assert found["state"] == "succeeded", found

    def vms(self) -> list[dict[str, Any]]:
        return list(self.get("/v1/vms?limit=100")["vms"])

    def all_up(self) -> None:
        eventually(lambda: {vm["status"] for vm in self.vms()} == {"up"}, what="every VM is up")


def kill(workplace: Workplace, engine: str) -> None:
    victim = next(m for m in workplace.ask("members", "list") if m["engine"] == engine)
    os.kill(victim["pid"], signal.SIGKILL)


def test_ten_vms_run_and_move_while_engines_are_killed(workplace: Workplace) -> None:
    workplace.up("--engines", "3")
    client = Client(workplace)
    names = [f"vm-{number}" for number in range(VMS)]
    for name in names:
        client.post("/v1/vms", {"name": name, "memory_bytes": 2**28})
    runs = [client.post(f"/v1/vms/{name}/run", {}) for name in names[: VMS // 2]]
    kill(workplace, "engine-1")
    runs += [client.post(f"/v1/vms/{name}/run", {}) for name in names[VMS // 2 :]]
    client.all_end(runs)
    client.all_up()
    before = {vm["name"]: vm["host_id"] for vm in client.vms()}
    assert len(set(before.values())) > 1  # they were spread
    moves = [client.post(f"/v1/vms/{name}/migrate", {}) for name in names[: VMS // 2]]
    kill(workplace, "engine-2")
    moves += [client.post(f"/v1/vms/{name}/migrate", {}) for name in names[VMS // 2 :]]
    client.all_end(moves)
    client.all_up()
    after = {vm["name"]: vm["host_id"] for vm in client.vms()}
    assert all(after[name] != before[name] for name in names)

    def seen() -> int:
        hosts = client.get("/v1/hosts?limit=100")["hosts"]
        return sum((host["statistics"] or {}).get("vm_active", 0) for host in hosts)

    eventually(lambda: seen() == VMS, seconds=60, what="the hosts count ten running VMs")
    verbs = [request.verb for request in read_requests(workplace.state / "simulator" / "log")]
    assert verbs.count("VM.create") == VMS
    assert verbs.count("VM.migrationCreate") == VMS
