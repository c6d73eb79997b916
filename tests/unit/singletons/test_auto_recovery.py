from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from engine.clock import utcnow
from engine.errors import Conflict
from engine.testing.ledger import MemoryDesk, MemoryLedger
from engine.testing.singletons import RecordedEvents, SingletonContract, context, leadership
from plugins.singletons.auto_recovery import AutoRecovery, due
from tests.unit.singletons.waiting import until

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def host(name: str, **columns: Any) -> dict[str, Any]:
    return {
        "id": name,
        "name": name,
        "cluster_id": "default",
        "status": "non_operational",
        "status_since": NOW - timedelta(seconds=301),
        "status_reason": "the agent has been recovering",
        "asked": None,
        "asked_count": 0,
        "heeded_count": 0,
        **columns,
    }


class TestAutoRecovery(SingletonContract):
    plugin = AutoRecovery
    values: ClassVar = {"interval_seconds": 0.1}


def test_only_hosts_that_have_been_unusable_for_the_period_are_due() -> None:
    hosts = [
        host("due"),
        host("install", status="install_failed"),
        host("fresh", status_since=NOW - timedelta(seconds=299)),
        host("maintenance", status="maintenance"),
        host("silent", status="non_responsive"),
        host("asked", asked="maintenance", asked_count=1),
    ]
    assert [row["id"] for row in due(hosts, NOW, after_seconds=lambda _host: 300)] == ["due", "install"]


async def test_a_host_is_tried_once_a_period_and_a_locked_one_later() -> None:
    ledger, desk = MemoryLedger(), MemoryDesk()
    ledger.put("host", **host("a", status_since=utcnow() - timedelta(seconds=301)))
    desk.refusals["a"] = Conflict("host:a is locked")
    built = context(AutoRecovery, {"interval_seconds": 0.05}, RecordedEvents(), ledger=ledger, commands=desk)
    task = asyncio.create_task(_run(AutoRecovery(built)), name="auto_recovery under test")
    await asyncio.sleep(0)
    desk.refusals.clear()
    await until(lambda: ledger.events)
    writes = ledger.writes
    task.cancel()
    await asyncio.wait({task})
    assert desk.asked == [("activate_host", {"host_id": "a"})]
    assert writes == 1
    assert "a is tried again: it was non_operational" in ledger.events[0][1]


async def test_the_hosts_of_a_cluster_are_tried_as_often_as_is_set_for_them() -> None:
    ledger, desk = MemoryLedger(), MemoryDesk()
    since = utcnow() - timedelta(seconds=61)
    ledger.put("host", **host("usual", status_since=since))
    ledger.put("host", **host("eager", status_since=since, cluster_id="paris"))
    built = context(
        AutoRecovery,
        {"interval_seconds": 0.05},
        RecordedEvents(),
        ledger=ledger,
        commands=desk,
        overrides={"paris": {"after_seconds": 60.0}},
    )
    task = asyncio.create_task(_run(AutoRecovery(built)), name="auto_recovery under test")
    await until(lambda: ledger.events)
    task.cancel()
    await asyncio.wait({task})
    assert desk.asked == [("activate_host", {"host_id": "eager"})]


async def _run(duty: AutoRecovery) -> None:
    await duty.run(leadership())
