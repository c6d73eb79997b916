"""A clustered map over a real ZooKeeper: what is written, refused, seen and told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from engine.coordination.closing import close_session
from engine.coordination.operations import Check, Delete, SetData
from engine.coordination.session import SessionSettings, open_session
from engine.errors import Conflict, Fenced, InvalidInput, Unavailable
from engine.plugin import Changed, Guard, Versioned
from engine.state.maps import Maps
from tests.contract.coordination.conftest import until
from tests.contract.state.conftest import Process, Room, process_on


async def test_what_one_writes_it_sees_at_once_and_the_other_when_it_is_fresh(a: Process, b: Process) -> None:
    version = await a.rooms.put("blue", Room(2))
    assert a.rooms["blue"] == Room(2)
    await b.rooms.fresh()
    assert b.rooms.versioned("blue") == Versioned(Room(2), version)
    assert (len(b.rooms), list(b.rooms), "blue" in b.rooms, b.rooms.get("red")) == (1, ["blue"], True, None)


async def test_zookeeper_shows_readable_json_under_the_key(a: Process) -> None:
    await a.rooms.put("a/b %", Room(2, "Blåa"))
    node = await a.session.get(f"{a.session.paths.map('rooms')}/a%2Fb %25")
    assert node is not None
    assert node.data == '{"guests":2,"name":"Blåa"}'.encode()
    assert a.rooms["a/b %"] == Room(2, "Blåa")


async def test_put_if_absent_replace_and_remove_say_whether_they_did(a: Process, b: Process) -> None:
    assert not await a.rooms.replace("k", Room(1))
    assert await a.rooms.put_if_absent("k", Room(1))
    assert not await b.rooms.put_if_absent("k", Room(2))
    assert await b.rooms.replace("k", Room(3))
    assert await a.rooms.remove("k")
    assert not await b.rooms.remove("k")
    await a.rooms.fresh()
    assert dict(a.rooms) == {}


async def test_a_write_for_a_version_that_has_passed_is_refused(a: Process, b: Process) -> None:
    first = await a.rooms.put("k", Room(1))
    second = await b.rooms.put("k", Room(2), if_version=first)
    assert second > first
    with pytest.raises(Conflict, match=f"k of map rooms has not version {first}: it has version {second}"):
        await a.rooms.put("k", Room(3), if_version=first)
    with pytest.raises(Conflict):
        await a.rooms.remove("k", if_version=first)
    assert await a.rooms.remove("k", if_version=second)
    with pytest.raises(Conflict, match="it is not there"):
        await b.rooms.put("k", Room(3), if_version=second)


async def test_an_entry_that_was_born_again_is_not_taken_for_the_former_one(a: Process, b: Process) -> None:
    """ZooKeeper itself gives both the version 0. Not even in the moment before the news have come."""
    for number in range(20):
        before = await a.rooms.put(f"k{number}", Room(1))
        await b.rooms.fresh()
        # b has not heard of this when it writes: nothing has been awaited in between.
        await b.rooms.remove(f"k{number}")
        born = asyncio.ensure_future(b.rooms.put(f"k{number}", Room(2)))
        late = asyncio.ensure_future(a.rooms.put(f"k{number}", Room(3), if_version=before))
        outcomes = await asyncio.gather(born, late, return_exceptions=True)
        assert isinstance(outcomes[1], Conflict)
        assert b.rooms[f"k{number}"] == Room(2)
        assert born.result() > before


async def test_compute_loses_no_update_over_writes_removals_and_births(a: Process, b: Process) -> None:
    async def count(process: Process) -> None:
        for _ in range(30):
            await process.rooms.compute("k", lambda room: Room(room.guests + 1 if room else 1))

    await asyncio.gather(count(a), count(b))
    await a.rooms.fresh()
    assert a.rooms["k"] == Room(60)
    assert await a.rooms.compute("k", lambda room: None) is None
    assert await b.rooms.compute("k", lambda room: room) is None


async def test_many_keys_of_several_maps_change_together_or_not_at_all(a: Process, b: Process) -> None:
    async with a.maps.open("halls", Room) as halls:
        await a.rooms.put("old", Room(9))
        await a.maps.update_many([(a.rooms, "x", Room(1)), (halls, "y", Room(2)), (a.rooms, "old", None)])
        assert (dict(a.rooms), dict(halls)) == ({"x": Room(1)}, {"y": Room(2)})
    await b.rooms.update_many({"x": Room(5), "z": Room(6)})
    assert dict(b.rooms) == {"x": Room(5), "z": Room(6)}
    with pytest.raises(InvalidInput, match="101 keys in one transaction; at most 100"):
        await b.rooms.update_many({f"k{n}": Room(1) for n in range(101)})
    assert len(b.rooms) == 2


async def test_what_cannot_be_kept_is_refused_with_what_can(a: Process) -> None:
    with pytest.raises(InvalidInput, match="bytes of JSON, at most 65536 are kept"):
        await a.rooms.put("k", Room(1, "x" * 70_000))
    with pytest.raises(InvalidInput, match="map rooms holds Room, not dict"):
        await a.rooms.put("k", {"guests": 1})  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="at most 250 bytes"):
        await a.rooms.put("k" * 251, Room(1))
    with pytest.raises(InvalidInput, match="at least one character"):
        await a.rooms.put("", Room(1))
    with pytest.raises(InvalidInput, match="cannot be the name of a map"):
        async with a.maps.open("No/Map", Room):
            pass


async def test_entries_of_a_session_vanish_with_it_and_others_stay(
    a: Process, settings: SessionSettings
) -> None:
    async with process_on(settings, of_session=True) as other:
        await other.rooms.put("mine", Room(1))
        await other.rooms.put("mine", Room(2))
        await a.rooms.put("stays", Room(3))
        await a.rooms.fresh()
        assert dict(a.rooms) == {"mine": Room(2), "stays": Room(3)}
    await until(lambda: dict(a.rooms) == {"stays": Room(3)})


async def test_an_entry_vanishes_with_whoever_wrote_it_last(
    a: Process, b: Process, settings: SessionSettings
) -> None:
    async with process_on(settings, of_session=True) as other:
        await a.rooms.put("k", Room(1))
        await other.rooms.put("k", Room(2))
        await other.rooms.put("l", Room(3))
        await b.rooms.put("l", Room(4))
    await until(lambda: dict(a.rooms) == {"l": Room(4)})


async def test_a_write_under_a_guard_that_no_longer_holds_is_fenced(a: Process) -> None:
    path = f"{a.session.paths.root}/leader"
    await a.session.ensure(path)
    guard = Guard(token=1, node=path, version=0)
    await a.rooms.put("k", Room(1), guard=guard)
    await a.session.set(path, b"somebody later")
    for write in (
        a.rooms.put("k", Room(2), guard=guard),
        a.rooms.put_if_absent("new", Room(2), guard=guard),
        a.rooms.update_many({"k": Room(2)}, guard=guard),
        a.rooms.remove("k", guard=guard),
    ):
        with pytest.raises(Fenced):
            await write
    await a.session.commit(Check(path, 1))
    assert dict(a.rooms) == {"k": Room(1)}


async def test_changes_tell_old_and_new_of_each_key_from_the_call_on(a: Process, b: Process) -> None:
    before = await a.rooms.put("k", Room(1))
    changes = a.rooms.changes()
    after = await b.rooms.put("k", Room(2))
    assert await anext(changes) == Changed("k", Versioned(Room(1), before), Versioned(Room(2), after))
    await b.rooms.remove("k")
    assert await anext(changes) == Changed("k", Versioned(Room(2), after), None)
    waiting = asyncio.ensure_future(anext(changes, None))
    await changes.aclose()
    assert await waiting is None


async def test_who_listens_to_a_map_that_is_closed_is_let_go(a: Process) -> None:
    async with a.maps.open("halls", Room) as halls:
        waiting = asyncio.ensure_future(anext(halls.changes(), None))
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert await waiting is None
    with pytest.raises(Unavailable, match="has been closed"):
        halls.changes()
    with pytest.raises(Unavailable, match="it has been closed"):
        await halls.put("k", Room(1))


async def test_changes_that_are_not_read_are_merged_into_one_for_each_key(a: Process, b: Process) -> None:
    changes = a.rooms.changes()
    for guests in range(1, 11):
        await b.rooms.put("k", Room(guests))
    await b.rooms.put("gone", Room(1))
    await b.rooms.remove("gone")
    await b.rooms.put("l", Room(1))
    await a.rooms.fresh()
    seen = [await anext(changes), await anext(changes)]
    assert [(change.key, change.old, change.new and change.new.value) for change in seen] == [
        ("k", None, Room(10)),
        ("l", None, Room(1)),
    ]


async def test_a_listener_is_told_what_changed_while_its_session_was_over(
    settings: SessionSettings, b: Process
) -> None:
    maps = Maps()
    async with open_session(settings) as first, maps.serving(first):
        opening = maps.open("rooms", Room)
        rooms = await opening.__aenter__()
        await rooms.put("stays", Room(1))
        await rooms.put("goes", Room(2))
        changes = rooms.changes()
        first_version = rooms.versioned("stays")
        await asyncio.to_thread(close_session, settings.hosts, first.identity)
        await first.ended.wait()
    with pytest.raises(Unavailable, match="no session with ZooKeeper"):
        await rooms.put("k", Room(1))
    assert rooms["stays"] == Room(1)
    await b.rooms.put("stays", Room(5))
    await b.rooms.remove("goes")
    await b.rooms.put("comes", Room(3))
    async with open_session(settings) as second, maps.serving(second):
        seen = {change.key: change for change in [await anext(changes) for _ in range(3)]}
        assert seen["stays"].old == first_version
        assert seen["stays"].new == b.rooms.versioned("stays")
        assert seen["goes"].new is None
        assert seen["comes"].old is None
        await rooms.put("k", Room(1))
        await opening.__aexit__(None, None, None)


async def test_after_a_reconnect_with_nothing_changed_three_requests_are_enough(
    settings: SessionSettings, b: Process
) -> None:
    """And where something has changed, all of it is found, also what vanished with its session."""
    async with process_on(settings) as a, process_on(settings, of_session=True) as passing:
        await passing.rooms.put("passing", Room(1))
        for start in range(0, 300, 100):
            await b.rooms.update_many({f"k{n}": Room(n) for n in range(start, start + 100)})
        await a.rooms.fresh()
        sent = counted(a)
        await cut(a)
        await until(lambda: a.rooms.current)
        assert sent == ["watch", "read 1"]
        await b.rooms.put("k7", Room(1007))
        await a.rooms.fresh()
        await cut(a)
        await until(lambda: a.rooms.current)
        assert len(a.rooms) == 301
        assert a.rooms["k7"] == Room(1007)
    await until(lambda: "passing" not in b.rooms)


def counted(process: Process) -> list[str]:
    """What is asked in the map's name from now on; pings and heartbeats are not."""
    session, sent = process.session, []
    watch_tree, get_many, children = session.watch_tree, session.get_many, session.children_of_many

    async def watched(path: str) -> None:
        sent.append("watch")
        await watch_tree(path)

    async def read(paths: list[str]) -> object:
        sent.append(f"read {len(paths)}")
        return await get_many(paths)

    async def listed(paths: list[str]) -> object:
        sent.append(f"list {len(paths)}")
        return await children(paths)

    session.watch_tree, session.get_many, session.children_of_many = watched, read, listed  # type: ignore[method-assign,assignment]
    return sent


async def cut(process: Process) -> None:
    """Break the connection; return when it was noticed."""
    noticed = asyncio.Event()
    unsubscribe = process.session.on_connection_change(lambda connected: None if connected else noticed.set())
    process.session._channel.cut()
    async with asyncio.timeout(10):
        await noticed.wait()
    unsubscribe()


async def test_a_map_that_is_opened_while_the_connection_is_broken_is_followed_when_it_is_back(
    a: Process,
) -> None:
    await cut(a)
    async with asyncio.timeout(10), a.maps.open("halls", Room) as halls:
        await halls.put("k", Room(1))
        assert dict(halls) == {"k": Room(1)}


async def test_a_value_that_was_broken_by_hand_is_left_out_and_can_be_written_anew(
    a: Process, b: Process
) -> None:
    await a.rooms.put("k", Room(1))
    path = f"{b.session.paths.map('rooms')}/k"
    await b.session.commit(SetData(path, b"{oops"))
    await until(lambda: "k" not in a.rooms)
    assert not await a.rooms.put_if_absent("k", Room(2))
    await a.rooms.put("k", Room(2))
    assert a.rooms["k"] == Room(2)
    await b.session.commit(Delete(path))
    await until(lambda: "k" not in a.rooms)


@dataclass(frozen=True, slots=True)
class LaterRoom:
    guests: int
    name: str = ""
    floor: int = 0


async def test_engines_of_two_versions_read_what_the_other_writes(a: Process, b: Process) -> None:
    async with b.maps.open("rooms", LaterRoom) as later:
        await later.put("k", LaterRoom(1, "x", 3))
        await a.rooms.fresh()
        assert a.rooms["k"] == Room(1, "x")
        await a.rooms.put("l", Room(2))
        await later.fresh()
        assert later["l"] == LaterRoom(2, "", 0)
