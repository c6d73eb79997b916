"""Errors cross from engine to engine as what they are."""

from __future__ import annotations

import pytest

from engine import errors
from engine.errors import EngineError, HostRefused, InvalidInput, NoSuchVm, NotFound, TaskFailed
from engine.execution.wire import Fault, Reply, decode_reply, encode, failed

_SAME = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, EngineError) and not issubclass(kind, HostRefused)
]


def carried(error: EngineError) -> EngineError:
    reply = decode_reply(encode(failed(error)))
    assert reply.fault is not None
    return reply.fault.error()


@pytest.mark.parametrize("kind", [kind for kind in _SAME if kind is not EngineError])
def test_every_error_of_the_engine_arrives_as_itself(kind: type[EngineError]) -> None:
    arrived = carried(kind("what happened"))
    assert type(arrived) is kind
    assert str(arrived) == "what happened"


def test_codes_and_fields_arrive_too() -> None:
    refused = carried(NoSuchVm(1, "no such VM"))
    assert isinstance(refused, NoSuchVm)
    assert (refused.code, refused.reason) == (1, "no such VM")
    invalid = carried(InvalidInput("bad", fields={"size": "must be less"}))
    assert isinstance(invalid, InvalidInput)
    assert invalid.fields == {"size": "must be less"}


def test_an_error_of_a_plugin_s_own_arrives_as_its_nearest_parent() -> None:
    class NoSuchDisk(NotFound):
        pass

    class Strange(EngineError):
        pass

    assert type(carried(NoSuchDisk("sda"))) is NotFound
    assert type(carried(Strange("odd"))) is TaskFailed


def test_an_error_that_is_not_known_here_is_a_failed_task() -> None:
    assert type(Fault(kind="FromTheFuture", message="x").error()) is TaskFailed
    assert decode_reply(b"{}") == Reply()
