"""A host crashes: it is fenced once and its HA VMs run once elsewhere, though engines die meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from plugins.simulator import witness
from plugins.simulator.control import open_simulator
from plugins.simulator.log import read_log
from tests.cluster.conftest import Workplace, eventually
from tests.cluster.test_vms import Client

VMS = 4
IMPATIENT = {
    "OS_HOSTS__GRACE_SECONDS": "1",
    "OS_HOSTS__TICK_SECONDS": "0.5",
    "OS_SINGLETON_HOST_TREATMENT__QUIET_SECONDS": "0",
    "OS_SINGLETON_HOST_TREATMENT__INTERVAL_SECONDS": "0.5",
    "OS_SINGLETON_HOST_TREATMENT__REACH_SECONDS": "2",
}

pytestmark = pytest.mark.timeout(300)


class Crashing:
    """A cluster with VMs on one host, whose power can be reached, and that host's port."""

    def __init__(self, workplace: Workplace) -> None:
        self.workplace = workplace
        self.client = Client(workplace)
        self.hosts = {host["name"]: host for host in self.client.get("/v1/hosts?limit=100")["hosts"]}
        self.victim = self.hosts[min(self.hosts)]

    def prepare(self) -> None:
        for host in self.hosts.values():
            agent = {"kind": "ipmilan", "address": "127.0.0.1", "username": "u", "password": "p"}
            power = {"power_management": {**agent, "port": host["port"]}}
            self.client.patch(f"/v1/hosts/{host['id']}", power)
        runs = []
        for number in range(VMS):
            vm = {"name": f"vm-{number}", "memory_bytes": 2**28, "highly_available": True}
            self.client.post("/v1/vms", vm)
            runs.append(self.client.post(f"/v1/vms/vm-{number}/run", {"host": self.victim["name"]}))
        self.client.all_end(runs)
        self.client.all_up()

    def simulate(self, do: str, port: int | None = None, **details: Any) -> None:
        async def command() -> None:
            async with open_simulator(self.workplace.state / "simulator" / "control") as simulator:
                await simulator.command(do, None if port is None else [port], **details)

        asyncio.run(command())

    def treatments(self) -> list[dict[str, Any]]:
        return list(self.client.get("/v1/commands?type=treat_host")["commands"])

    def signal_leader(self, singleton: str, number: signal.Signals) -> None:
        found = self.client.get("/v1/singletons")["singletons"]
        leader = next(each["leader"] for each in found if each["name"] == singleton)
        member = next(m for m in self.workplace.ask("members", "list") if m["engine"] == leader)
        os.kill(member["pid"], number)

    def treated(self) -> bool:
        found = self.treatments()
        assert all(each["state"] != "needs_operator" for each in found), found
        return bool(found) and all(each["state"] == "succeeded" for each in found)

    def judge(self) -> None:
        """By what the hosts saw."""
        log = list(read_log(self.workplace.state / "simulator" / "log"))
        assert [change.host for change in witness.switched_off(log)] == [self.victim["port"]]
        assert witness.in_two_places(log) == []
        created = witness.created(log)
        assert len(created) == VMS
        for places in created.values():
            before, after = places
            assert before == self.victim["port"] != after
        assert len(self.treatments()) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_crashed_host_is_fenced_once_and_its_vms_run_once_elsewhere_though_the_leader_is(
    workplace: Workplace, number: signal.Signals
) -> None:
    workplace.environment |= IMPATIENT
    workplace.up("--engines", "3")
    crashing = Crashing(workplace)
    crashing.prepare()
    crashing.simulate("slow", milliseconds=1500, verbs=["Host.fenceNode"])
    crashing.simulate("crash", crashing.victim["port"])
    eventually(lambda: bool(crashing.treatments()), seconds=90, what="its treatment is asked for")
    crashing.signal_leader("host_treatment", number)
    eventually(crashing.treated, seconds=120, what="it is fenced and switched on")

    def moved() -> bool:
        vms = crashing.client.vms()
        return all(vm["status"] == "up" and vm["host_id"] != crashing.victim["id"] for vm in vms)

    eventually(moved, seconds=60, what="its VMs run elsewhere")

    def back() -> bool:
        return bool(crashing.client.get(f"/v1/hosts/{crashing.victim['id']}")["status"] == "up")

    eventually(back, seconds=60, what="the host is back")
    crashing.judge()


def test_nothing_is_fenced_while_the_engines_are_new_and_that_is_told(workplace: Workplace) -> None:
    workplace.environment |= {**IMPATIENT, "OS_SINGLETON_HOST_TREATMENT__QUIET_SECONDS": "3600"}
    workplace.up()
    crashing = Crashing(workplace)
    crashing.prepare()
    crashing.simulate("crash", crashing.victim["port"])

    def told() -> bool:
        events = crashing.client.get("/v1/events?kind=host_not_fenced")["events"]
        return any("less than 3600 s" in event["message"] for event in events)

    eventually(told, seconds=90, what="why it is not fenced is told")
    assert crashing.treatments() == []
    log = list(read_log(workplace.state / "simulator" / "log"))
    assert list(witness.switched_off(log)) == []
