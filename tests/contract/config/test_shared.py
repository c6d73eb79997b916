"""The cluster's configuration in a real ZooKeeper: whole changes, their history, and going back."""

from __future__ import annotations

import asyncio

import pytest

from engine.config import shared
from engine.config.shared import SharedConfiguration
from engine.coordination.session import Session
from engine.errors import Conflict, InvalidInput, NotFound


async def told(configuration: SharedConfiguration, engine: str | None = None) -> dict[str, bytes]:
    return {key: node.data for key, node in (await configuration.values(engine)).items()}


async def test_many_options_are_set_and_unset_in_one_change(session: Session) -> None:
    configuration = SharedConfiguration(session)
    first = await configuration.change({"hosts/a": b"1", "api/b": b"2"}, user="ann", comment="begin")
    second = await configuration.change({"hosts/a": b"3", "api/b": None}, user="bob")
    assert first is not None
    assert second is not None
    assert await told(configuration) == {"hosts/a": b"3"}
    newest, oldest = await configuration.history(limit=10)
    assert (newest.user, oldest.user, oldest.comment) == ("bob", "ann", "begin")
    assert [(c.key, c.old, c.new) for c in newest.changes] == [("api/b", "2", None), ("hosts/a", "1", "3")]


async def test_what_is_like_that_already_is_no_change(session: Session) -> None:
    configuration = SharedConfiguration(session)
    await configuration.change({"hosts/a": b"1"}, user="")
    assert await configuration.change({"hosts/a": b"1", "hosts/b": None}, user="") is None
    assert len(await configuration.history(limit=10)) == 1


async def test_a_change_made_from_an_old_version_is_refused_as_a_whole(session: Session) -> None:
    configuration = SharedConfiguration(session)
    await configuration.change({"hosts/a": b"1"}, user="")
    await configuration.change({"hosts/a": b"2"}, user="")
    with pytest.raises(Conflict, match=r"hosts\.a was changed meanwhile: it is at version 1"):
        await configuration.change(
            {"hosts/a": b"3", "hosts/b": b"3"}, user="", versions={"hosts/a": 0, "hosts/b": -1}
        )
    assert await told(configuration) == {"hosts/a": b"2"}


async def test_changes_that_meet_all_take_place(session: Session) -> None:
    configuration = SharedConfiguration(session)
    await asyncio.gather(
        *(configuration.change({f"hosts/n{n}": b"1"}, user=str(n)) for n in range(4)),
    )
    assert len(await told(configuration)) == 4
    assert len(await configuration.history(limit=10)) == 4


async def test_going_back_restores_what_was_after_a_revision(session: Session) -> None:
    configuration = SharedConfiguration(session)
    first = await configuration.change({"hosts/a": b"1", "hosts/b": b"1"}, user="")
    await configuration.change({"hosts/a": b"2", "hosts/c": b"1"}, user="")
    await configuration.change({"hosts/a": b"3", "hosts/b": None}, user="")
    assert first is not None
    wanted = await configuration.undoing(first.number)
    await configuration.change(wanted, user="")
    assert await told(configuration) == {"hosts/a": b"1", "hosts/b": b"1"}
    with pytest.raises(NotFound, match="no revision 77 of the configuration: known are 0 to 3"):
        await configuration.undoing(77)


async def test_one_engine_has_values_of_its_own(session: Session) -> None:
    configuration = SharedConfiguration(session)
    await configuration.change({"hosts/a": b"1"}, user="")
    await configuration.change({"hosts/a": b"2"}, user="", engine="engine-2")
    assert await told(configuration) == {"hosts/a": b"1"}
    assert await told(configuration, "engine-2") == {"hosts/a": b"2"}
    assert await told(configuration, "engine-3") == {}


async def test_the_history_keeps_so_many_and_no_more(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "KEPT", 3)
    configuration = SharedConfiguration(session)
    for number in range(6):
        await configuration.change({"hosts/a": str(number).encode()}, user="")
    assert [revision.number for revision in await configuration.history(limit=10)] == [5, 4, 3]


async def test_too_many_options_in_one_change_are_refused(session: Session) -> None:
    with pytest.raises(InvalidInput, match="101 options in one change; at most 100"):
        await SharedConfiguration(session).change({f"hosts/n{n}": b"1" for n in range(101)}, user="")
