"""Which word about a virtual machine counts, when reports and events cross."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.hosts import vms
from engine.hosts.vms import VmTable
from engine.plugin import VmId, VmReport

A = VmId("a")


def report(status: str) -> list[VmReport]:
    return [VmReport(A, status)]


def test_an_event_counts_at_once_and_the_next_report_replaces_it() -> None:
    table = VmTable()
    table.reported(report("Up"), asked_at=10.0)
    assert table.said(A, "Down", stamped=511.0, at=11.0)
    assert table.statuses == {A: "Down"}
    table.reported(report("Up"), asked_at=25.0)
    assert table.statuses == {A: "Up"}


def test_an_event_older_than_the_report_is_dropped() -> None:
    table = VmTable()
    table.said(VmId("other"), "Up", stamped=500.0, at=5.0)  # the host's clock is 495 s ahead or more
    table.reported(report("Down"), asked_at=10.0)
    assert not table.said(A, "Up", stamped=504.9, at=11.0)
    assert table.said(A, "Up", stamped=505.1, at=11.5)


def test_an_event_older_than_another_event_is_dropped() -> None:
    table = VmTable()
    assert table.said(A, "Down", stamped=7.0, at=7.5)
    assert not table.said(A, "Up", stamped=6.0, at=8.0)
    assert table.statuses == {A: "Down"}


def test_an_event_that_came_while_the_report_was_on_its_way_outlives_it() -> None:
    table = VmTable()
    table.said(A, "Powering up", stamped=1.0, at=1.0)
    table.said(A, "Up", stamped=10.2, at=10.3)
    table.reported(report("Powering up"), asked_at=10.0)
    assert table.statuses == {A: "Up"}


def test_after_a_reconnect_the_old_clock_of_the_host_orders_nothing() -> None:
    table = VmTable()
    table.said(A, "Up", stamped=1e9, at=1.0)
    table.reconnected()
    table.reported(report("Up"), asked_at=2.0)
    assert table.said(A, "Down", stamped=3.0, at=3.0)


def test_a_host_that_makes_machines_up_is_not_listened_to_for_ever() -> None:
    table = VmTable()
    for number in range(vms.MAX_UNREPORTED + 5):
        table.said(VmId(str(number)), "Up", stamped=1.0, at=1.0)
    assert len(table.statuses) == vms.MAX_UNREPORTED


@given(
    offset=st.floats(-1000, 1000),
    gaps=st.lists(st.tuples(st.floats(0.01, 3), st.floats(0, 2)), min_size=1, max_size=30),
    polls=st.lists(st.tuples(st.floats(0, 60), st.floats(0, 1), st.floats(0, 1)), max_size=10),
)
def test_once_all_has_arrived_the_table_knows_the_truth(
    offset: float, gaps: list[tuple[float, float]], polls: list[tuple[float, float, float]]
) -> None:
    """One machine changes; its events arrive late but in order; reports are taken in between."""
    table = VmTable()
    arrivals: list[tuple[float, int, str, float]] = []
    changes: list[tuple[float, str]] = [(0.0, "0")]
    now = delivered = 0.0
    for number, (gap, delay) in enumerate(gaps, 1):
        now += gap
        delivered = max(delivered, now + delay)
        changes.append((now, str(number)))
        arrivals.append((delivered, 1, str(number), now + offset))
    for asked, there, back in polls:
        truth = [status for at, status in changes if at <= asked + there][-1]
        arrivals.append((asked + there + back, 0, truth, asked))
    for at, is_event, status, number_ in sorted(arrivals):
        if is_event:
            table.said(A, status, stamped=number_, at=at)
        else:
            table.reported(report(status), asked_at=number_)
    assert table.statuses[A] == changes[-1][1]
