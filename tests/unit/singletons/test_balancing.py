from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import ClassVar

from engine.errors import Conflict
from engine.testing.ledger import MemoryDesk, MemoryLedger
from engine.testing.singletons import RecordedEvents, SingletonContract, context, leadership
from plugins.singletons.balancing import Balancing
from tests.unit.singletons.test_load import CLUSTER, host, vm
from tests.unit.singletons.waiting import until

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class TestBalancing(SingletonContract):
    plugin = Balancing
    values: ClassVar = {"interval_seconds": 0.1}


async def test_a_few_at_a_time_are_moved_and_a_locked_vm_stays() -> None:
    ledger, desk = MemoryLedger(), MemoryDesk()
    ledger.put("host_cluster", **CLUSTER, name="default", balancing="even")
    ledger.put("host_cluster", id="other", name="other", balancing="none")
    for number in (1, 2):
        ledger.put("host", **host(number))
    for number in range(8):
        ledger.put("vm", **vm(number, on=1), name=f"vm-{number}", status_since=NOW)
    desk.refusals["v000"] = Conflict("vm:v000 is locked")
    built = context(Balancing, {"interval_seconds": 3600.0}, RecordedEvents(), ledger=ledger, commands=desk)
    task = asyncio.create_task(_run(Balancing(built)), name="balancing under test")
    await until(lambda: ledger.events)
    task.cancel()
    await asyncio.wait({task})
    assert desk.asked == [("migrate_vm", {"vm_id": "v001", "host_id": "h2"})]
    (event,) = ledger.events
    assert "VM vm-1 is moved from host host-1 (load 70 %) to host-2 (10 %)" in event[1]


async def _run(duty: Balancing) -> None:
    await duty.run(leadership())
