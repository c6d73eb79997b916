"""Whom the rules spare: every reason not to fence, one by one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from plugins.commands.treatment import against

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def host(number: int, status: str = "up", **columns: Any) -> dict[str, Any]:
    return {
        "id": f"h{number}",
        "name": f"host-{number}",
        "status": status,
        "asked": None,
        "asked_count": 0,
        "heeded_count": 0,
        "power_management": {"kind": "ipmilan"},
        "fenced_at": None,
        "reported_at": NOW - timedelta(seconds=60),
        **columns,
    }


def verdict(broken: dict[str, Any], *others: dict[str, Any], fencing: bool = True) -> str | None:
    cluster = {"name": "default", "fencing": fencing}
    return against(broken, cluster, [broken, *others], now=NOW, broken_percent=50, again_seconds=600)


SILENT = host(1, "non_responsive")


def test_a_silent_host_beside_one_that_is_up_is_fenced() -> None:
    assert verdict(SILENT, host(2)) is None


@pytest.mark.parametrize(
    "status", ["up", "connecting", "maintenance", "preparing_for_maintenance", "down", "non_operational"]
)
def test_no_status_but_one_leads_to_fencing(status: str) -> None:
    assert verdict(host(1, status), host(2), host(3)) == f"it is {status}"


def test_a_cluster_may_forbid_it() -> None:
    assert "switched off in cluster default" in (verdict(SILENT, host(2), fencing=False) or "")


def test_what_somebody_has_just_asked_of_the_host_goes_first() -> None:
    asked = host(1, "non_responsive", asked="maintenance", asked_count=3, heeded_count=2)
    assert "asked it for maintenance" in (verdict(asked, host(2)) or "")


def test_without_power_management_it_cannot_be_done() -> None:
    assert "no power management" in (verdict(host(1, "non_responsive", power_management=None), host(2)) or "")


def test_a_host_that_came_back_is_not_fenced_again_soon() -> None:
    recent = host(1, "non_responsive", fenced_at=NOW - timedelta(seconds=599))
    assert verdict(recent, host(2)) == "it was fenced less than 600 s ago"
    before = host(1, "non_responsive", fenced_at=NOW - timedelta(seconds=601))
    assert verdict(before, host(2)) is None


@pytest.mark.parametrize("reported", [None, NOW - timedelta(days=3)])
def test_a_host_that_has_not_answered_since_it_was_fenced_is_never_fenced_again(
    reported: datetime | None,
) -> None:
    broken = host(1, "non_responsive", fenced_at=NOW - timedelta(days=2), reported_at=reported)
    assert "has not answered since" in (verdict(broken, host(2)) or "")


def test_half_of_the_hosts_may_be_broken_and_no_more() -> None:
    assert verdict(SILENT, host(2, "connecting"), host(3), host(4)) is None
    why = verdict(SILENT, host(2, "connecting"), host(3, "down"), host(4))
    assert why is not None
    assert why.startswith("3 of the 4 hosts of cluster default are broken, more than 50 %")


def test_hosts_in_maintenance_do_not_count() -> None:
    assert "1 of the 1 hosts" in (verdict(SILENT, host(2, "maintenance"), host(3, "maintenance")) or "")
