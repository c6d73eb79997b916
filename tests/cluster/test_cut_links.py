"""An engine that is cut off from its hosts, and from nothing else, has nobody fenced."""

from __future__ import annotations

import pytest

from plugins.simulator import witness
from plugins.simulator.log import read_log, read_requests
from tests.cluster.conftest import Workplace, eventually
from tests.cluster.test_high_availability import IMPATIENT, VMS, Crashing

pytestmark = pytest.mark.timeout(300)


def test_hosts_that_only_their_own_engine_cannot_reach_are_not_fenced_and_lose_nothing(
    workplace: Workplace,
) -> None:
    # However many of the hosts are its own: it must not be that rule that spares them.
    workplace.environment |= {
        **IMPATIENT,
        "OS_SINGLETON_HOST_TREATMENT__BROKEN_PERCENT": "100",
        "OS_DRIVER_VDSM__CALL_TIMEOUT": "2",
    }
    workplace.up("--engines", "3")
    crashing = Crashing(workplace)
    crashing.prepare()
    engine = crashing.client.get(f"/v1/hosts/{crashing.victim['id']}")["owner"]
    mine = {name for name, host in crashing.hosts.items() if _owner(crashing, host["id"]) == engine}
    crashing.simulate("cut", engines=[engine])

    def told() -> bool:
        events = crashing.client.get("/v1/events?kind=host_not_fenced&limit=100")["events"]
        assert all("reaches it" in event["message"] for event in events), events
        return mine <= {event["message"].split()[1] for event in events}

    eventually(told, seconds=90, what=f"why {mine} are not fenced is told")
    statuses = {name: crashing.client.get(f"/v1/hosts/{host['id']}") for name, host in crashing.hosts.items()}
    assert {name for name, host in statuses.items() if host["status"] == "non_responsive"} == mine
    crashing.simulate("cut", engines=[])

    def back() -> bool:
        hosts = [crashing.client.get(f"/v1/hosts/{host['id']}") for host in crashing.hosts.values()]
        return all(host["status"] == "up" for host in hosts)

    eventually(back, seconds=60, what="all hosts are up again")
    crashing.client.all_up()
    assert crashing.treatments() == []
    log = list(read_log(workplace.state / "simulator" / "log"))
    assert list(witness.switched_off(log)) == []
    assert len(witness.created(log)) == VMS
    assert all(len(places) == 1 for places in witness.created(log).values())
    requests = read_requests(workplace.state / "simulator" / "log")
    assert not [request for request in requests if request.verb == "Host.fenceNode"]


def _owner(crashing: Crashing, host_id: str) -> str:
    return str(crashing.client.get(f"/v1/hosts/{host_id}")["owner"])
