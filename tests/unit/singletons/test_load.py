"""Plans of balancing: examples, and what holds for any cluster."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.commands.placement import Room, rooms_of
from plugins.singletons.load import EVEN, POWER_SAVING, Limits, Move, load, plan

GIB = 2**30
CLUSTER = {"id": "c", "memory_percent": 100, "cpu_percent": 1000, "policy": "spread"}
LIMITS = Limits()

Rows = list[dict[str, Any]]


def host(number: int, gib: int = 10, status: str = "up", cores: int = 8) -> dict[str, Any]:
    return {
        "id": f"h{number}",
        "name": f"host-{number}",
        "cluster_id": "c",
        "status": status,
        "asked": None,
        "asked_count": 0,
        "heeded_count": 0,
        "capabilities": {"memory_bytes": gib * GIB, "cpu_cores": cores},
    }


def vm(number: int, on: int, gib: int = 1, **columns: Any) -> dict[str, Any]:
    return {
        "id": f"v{number:03}",
        "cluster_id": "c",
        "host_id": f"h{on}",
        "destination_id": None,
        "operation_id": None,
        "status": "up",
        "memory_bytes": gib * GIB,
        "cpus": 1,
        "pinned_host_id": None,
        "affinity_group": None,
        "affinity": None,
        **columns,
    }


def planned(policy: str, hosts: Rows, vms: Rows, at_most: int = 100) -> list[Move]:
    return plan(policy, CLUSTER, hosts, vms, limits=LIMITS, at_most=at_most)


def after(vms: Rows, moves: list[Move]) -> Rows:
    to = {move.vm_id: move.destination for move in moves}
    return [{**each, "host_id": to.get(each["id"], each["host_id"])} for each in vms]


def rooms(hosts: Rows, vms: Rows) -> list[Room]:
    return [room for room in rooms_of(hosts, vms, CLUSTER) if room.usable]


def loads(hosts: Rows, vms: Rows) -> list[float]:
    return [round(load(room), 6) for room in rooms(hosts, vms)]


def test_even_levels_a_full_host_with_an_empty_one() -> None:
    hosts, vms = [host(1), host(2)], [vm(number, on=1) for number in range(8)]
    moves = planned(EVEN, hosts, vms)
    assert sorted(loads(hosts, after(vms, moves))) == [40, 40]
    assert {(move.source, move.destination) for move in moves} == {("h1", "h2")}


def test_power_saving_empties_the_least_loaded_host() -> None:
    hosts = [host(1), host(2), host(3)]
    vms = [vm(1, on=1), *[vm(number, on=2) for number in (2, 3, 4)], *[vm(n, on=3) for n in (5, 6, 7, 8)]]
    moves = planned(POWER_SAVING, hosts, vms)
    assert [(move.vm_id, move.source, move.destination) for move in moves] == [("v001", "h1", "h3")]


def test_power_saving_empties_no_host_that_cannot_be_emptied_wholly() -> None:
    hosts = [host(1), host(2)]
    pinned = vm(2, on=1, pinned_host_id="h1")
    assert planned(POWER_SAVING, hosts, [vm(1, on=1), pinned, vm(3, on=2, gib=3)]) == []
    assert planned(POWER_SAVING, hosts, [vm(1, on=1, gib=2), vm(3, on=2, gib=7)]) == []  # beyond the limit


def test_power_saving_relieves_a_host_beyond_the_limit() -> None:
    hosts = [host(1), host(2)]
    vms = [*[vm(number, on=1) for number in range(9)], vm(99, on=2, gib=5)]
    (move,) = planned(POWER_SAVING, hosts, vms)
    assert (move.source, move.destination) == ("h1", "h2")


def test_nothing_moves_while_something_is_on_its_way() -> None:
    hosts, vms = [host(1), host(2)], [vm(number, on=1) for number in range(8)]
    vms[0]["destination_id"] = "h2"
    assert planned(EVEN, hosts, vms) == []


def test_a_vm_that_belongs_with_others_is_not_taken_from_them_but_one_alone_may_go() -> None:
    hosts = [host(1), host(2)]
    together = {"affinity_group": "g", "affinity": "together"}
    vms = [vm(1, on=1, gib=4, **together), vm(2, on=1, gib=4, **together)]
    assert planned(EVEN, hosts, vms) == []
    vms[1].update(affinity_group=None, affinity=None)
    assert len(planned(EVEN, hosts, vms)) == 1


@st.composite
def clusters(draw: st.DrawFn) -> tuple[Rows, Rows]:
    count = draw(st.integers(1, 5))
    hosts = [
        host(
            number,
            gib=draw(st.integers(4, 32)),
            cores=draw(st.integers(1, 8)),
            status=draw(st.sampled_from(["up", "up", "up", "maintenance"])),
        )
        for number in range(count)
    ]
    vms: Rows = []
    for number in range(draw(st.integers(0, 20))):
        group = draw(st.sampled_from([None, None, "a", "b"]))
        vms.append(
            vm(
                number,
                on=draw(st.integers(0, count - 1)),
                gib=draw(st.integers(1, 6)),
                status=draw(st.sampled_from(["up", "up", "up", "paused", "down"])),
                pinned_host_id=draw(st.sampled_from([None, None, None, "h0"])),
                affinity_group=group,
                affinity=None if group is None else {"a": "apart", "b": "together"}[group],
            )
        )
    return hosts, vms


policies = st.sampled_from([EVEN, POWER_SAVING])


@settings(max_examples=200, deadline=None)
@given(clusters(), policies, st.integers(1, 6))
def test_moves_respect_capacity_pins_and_affinity_and_move_no_vm_twice(
    cluster: tuple[Rows, Rows], policy: str, at_most: int
) -> None:
    hosts, vms = cluster
    moves = planned(policy, hosts, vms, at_most)
    assert len(moves) <= at_most
    assert len({move.vm_id for move in moves}) == len(moves)
    by_id = {each["id"]: each for each in vms}
    up = {each["id"] for each in hosts if each["status"] == "up"}
    end = {room.host_id: room for room in rooms(hosts, after(vms, moves))}
    now = vms
    for move in moves:
        moved = by_id[move.vm_id]
        assert moved["status"] == "up"
        assert moved["pinned_host_id"] is None
        assert move.destination in up - {move.source}
        others = {
            other["affinity_group"]
            for other in now
            if other["host_id"] == move.destination and other["status"] != "down"
        }
        if moved["affinity"] == "apart":
            assert moved["affinity_group"] not in others
        now = after(now, [move])
    for host_id in {move.destination for move in moves}:
        assert end[host_id].memory_free_bytes >= 0
        assert end[host_id].cpus_free >= 0


@settings(max_examples=200, deadline=None)
@given(clusters(), st.integers(1, 6))
def test_even_never_makes_the_highest_load_higher_and_each_move_levels(
    cluster: tuple[Rows, Rows], at_most: int
) -> None:
    hosts, vms = cluster
    before = sorted(loads(hosts, vms), reverse=True)
    for move in planned(EVEN, hosts, vms, at_most):
        vms = after(vms, [move])
        now = sorted(loads(hosts, vms), reverse=True)
        assert now < before
        before = now


@settings(max_examples=200, deadline=None)
@given(clusters(), st.integers(1, 6))
def test_power_saving_never_overloads_and_never_uses_more_hosts_unless_to_relieve(
    cluster: tuple[Rows, Rows], at_most: int
) -> None:
    hosts, vms = cluster
    for move in planned(POWER_SAVING, hosts, vms, at_most):
        source_before = next(load(room) for room in rooms(hosts, vms) if room.host_id == move.source)
        used = {each["host_id"] for each in vms if each["status"] != "down"}
        vms = after(vms, [move])
        now = {room.host_id: load(room) for room in rooms(hosts, vms)}
        assert now[move.destination] <= LIMITS.high
        assert move.destination in used or source_before > LIMITS.high


@settings(max_examples=150, deadline=None)
@given(clusters(), policies, st.integers(1, 4))
def test_plan_after_plan_comes_to_rest_and_never_back_to_where_it_was(
    cluster: tuple[Rows, Rows], policy: str, at_most: int
) -> None:
    hosts, vms = cluster
    seen = {tuple(each["host_id"] for each in vms)}
    for _ in range(200):
        moves = planned(policy, hosts, vms, at_most)
        if not moves:
            return
        vms = after(vms, moves)
        where = tuple(each["host_id"] for each in vms)
        assert where not in seen
        seen.add(where)
    raise AssertionError("it never comes to rest")
