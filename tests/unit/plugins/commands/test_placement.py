"""Where VMs go: never where there is no room, never against a rule, and always somewhere if they can."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.plugin import HostId
from plugins.commands.placement import APART, PACK, SPREAD, TOGETHER, NoPlace, Room, Wish, choose, rooms_of

GROUPS = ("web", "db")


def room(host: str, *, memory: int = 100, cpus: int = 8, **fields: object) -> Room:
    values: dict[str, object] = {
        "host_id": HostId(host),
        "name": host,
        "cluster_id": "c",
        "usable": True,
        "memory_bytes": 100,
        "memory_free_bytes": memory,
        "cpus_free": cpus,
        **fields,
    }
    return Room(**values)  # type: ignore[arg-type]


def wish(**fields: object) -> Wish:
    return Wish(**{"cluster_id": "c", "memory_bytes": 10, "cpus": 1, **fields})  # type: ignore[arg-type]


rooms = st.lists(
    st.builds(
        room,
        st.sampled_from("abcdefgh"),
        memory=st.integers(-10, 100),
        cpus=st.integers(-2, 8),
        cluster_id=st.sampled_from(("c", "d")),
        usable=st.booleans(),
        groups=st.frozensets(st.sampled_from(GROUPS)),
    ),
    unique_by=lambda each: each.host_id,
    max_size=8,
)
wishes = st.builds(
    wish,
    memory_bytes=st.integers(1, 100),
    cpus=st.integers(1, 8),
    only=st.none() | st.sampled_from("abcdefgh"),
    group=st.none() | st.sampled_from(GROUPS),
    affinity=st.sampled_from((None, TOGETHER, APART)),
)


def allowed(asked: Wish, each: Room, present: list[Room], excluded: frozenset[str]) -> bool:
    gathered = {other.host_id for other in present if asked.group in other.groups}
    return (
        each.usable
        and each.cluster_id == asked.cluster_id
        and each.host_id not in excluded
        and asked.only in (None, each.host_id)
        and each.memory_free_bytes >= asked.memory_bytes
        and each.cpus_free >= asked.cpus
        and not (asked.affinity == APART and each.host_id in gathered)
        and not (asked.affinity == TOGETHER and gathered and each.host_id not in gathered)
    )


@given(rooms, wishes, st.frozensets(st.sampled_from("abcdefgh")), st.sampled_from((SPREAD, PACK)))
def test_the_chosen_host_is_the_best_of_those_that_are_allowed(
    present: list[Room], asked: Wish, excluded: frozenset[str], policy: str
) -> None:
    fit = [each for each in present if allowed(asked, each, present, excluded)]
    if not fit:
        with pytest.raises(NoPlace) as refused:
            choose(asked, present, policy=policy, excluded=excluded)  # type: ignore[arg-type]
        assert refused.value.reasons.keys() == {each.name for each in present}
        return
    chosen = choose(asked, present, policy=policy, excluded=excluded)  # type: ignore[arg-type]
    assert chosen in fit
    free = [each.memory_free_bytes for each in fit]
    assert chosen.memory_free_bytes == (max(free) if policy == SPREAD else min(free))


@given(rooms, wishes)
def test_the_order_of_the_hosts_does_not_matter(present: list[Room], asked: Wish) -> None:
    def answer(order: list[Room]) -> str | None:
        try:
            return choose(asked, order, policy=SPREAD).host_id
        except NoPlace:
            return None

    assert answer(present) == answer(present[::-1])


def test_a_refusal_says_why_host_by_host() -> None:
    present = [
        room("a", memory=5 << 20),
        room("b", usable=False, why_not="is down"),
        room("d", cluster_id="d"),
    ]
    with pytest.raises(NoPlace, match="a has 5 MiB free, not 10; b is down; d is in another cluster"):
        choose(wish(memory_bytes=10 << 20), present, policy=SPREAD)


def test_what_runs_and_what_is_on_its_way_takes_up_room() -> None:
    host = {
        "id": "a",
        "name": "a",
        "cluster_id": "c",
        "status": "up",
        "asked": None,
        "asked_count": 0,
        "heeded_count": 0,
        "capabilities": {"memory_bytes": 100, "cpu_cores": 4},
    }

    def vm(status: str, at: str | None, to: str | None) -> dict[str, object]:
        placed = {"status": status, "host_id": at, "destination_id": to}
        return {**placed, "memory_bytes": 10, "cpus": 1, "affinity_group": None}

    vms = [vm("up", "a", None), vm("migrating", "b", "a"), vm("down", None, "a"), vm("down", "a", None)]
    (found,) = rooms_of([host], vms, {"memory_percent": 150, "cpu_percent": 100})
    assert (found.memory_free_bytes, found.cpus_free) == (150 - 30, 4 - 3)
    assert found.usable


def test_a_host_that_is_asked_to_leave_takes_nothing_more() -> None:
    host = {
        "id": "a",
        "name": "a",
        "cluster_id": "c",
        "status": "up",
        "asked": "maintenance",
        "asked_count": 2,
        "heeded_count": 1,
        "capabilities": {"memory_bytes": 100, "cpu_cores": 4},
    }
    (found,) = rooms_of([host], [], {"memory_percent": 100, "cpu_percent": 100})
    assert (found.usable, found.why_not) == (False, "is leaving")
