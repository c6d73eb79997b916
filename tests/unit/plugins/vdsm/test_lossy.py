"""The driver over a network that splits, stalls, cuts, resets and garbles at every single byte.

Whatever happens, a call ends with its answer or a named error, by its deadline, and nothing is left.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from engine.plugin import EngineError, HostRefused, HostUnreachable, OutcomeUnknown
from plugins.drivers.vdsm import VdsmDriver
from tests.unit.plugins.vdsm.agent import Agent, TestAuthority, answer_all, event, running_agent
from tests.unit.plugins.vdsm.lossy import Damage, Fault, LossyProxy, lossy_proxy

CALL_SECONDS = 0.5
LATEST_SECONDS = 20 * CALL_SECONDS
AT_ONCE = 100
NAMED = (HostUnreachable, OutcomeUnknown, HostRefused)


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    async with running_agent(answer=say_and_answer) as running:
        yield running


def say_and_answer(request: Mapping[str, Any]) -> bytes:
    """An event precedes each answer, as on a busy host."""
    return event("|virt|VM_status|v", {"v": {"status": "Up"}, "notify_time": 1}) + answer_all(request)


async def outcome(agent: Agent, damage: Damage) -> str:
    """Connect, ask twice, close; how it ended: `answered`, or where and by which error."""
    async with lossy_proxy(agent.port, damage) as proxy:
        return await converse(proxy)


async def converse(proxy: LossyProxy) -> str:
    driver = VdsmDriver({"connect_timeout": CALL_SECONDS, "call_timeout": CALL_SECONDS})
    target = Agent(port=proxy.port).target()
    async with asyncio.timeout(LATEST_SECONDS):
        try:
            connection = await driver.connect(target, authority=TestAuthority(), on_event=lambda _: None)
        except EngineError as error:
            return f"connect: {type(error).__name__}"
        try:
            await connection.statistics()
            await connection.vms()
        except EngineError as error:
            return f"call: {type(error).__name__}"
        finally:
            await connection.close()
    return "answered"


async def each_byte(agent: Agent, fault: Fault, *, step: int = 1) -> collections.Counter[str]:
    """How it ended, with the fault at each byte that a host sends in a whole conversation."""
    async with lossy_proxy(agent.port, Damage()) as proxy:
        assert await converse(proxy) == "answered"
        places = range(0, proxy.from_host, step)
    ends: collections.Counter[str] = collections.Counter()
    for start in range(0, len(places), AT_ONCE):
        batch = [outcome(agent, Damage(fault, at)) for at in places[start : start + AT_ONCE]]
        ends.update(await asyncio.gather(*batch))
    assert sum(ends.values()) == len(places) > 100
    return ends


@pytest.mark.parametrize("piece", [1, 2, 7, 100])
async def test_a_stream_in_pieces_is_the_same_stream(agent: Agent, piece: int) -> None:
    assert await outcome(agent, Damage(piece=piece)) == "answered"


@pytest.mark.parametrize("fault", ["truncate", "reset"])
async def test_a_connection_that_ends_at_any_byte_is_unreachable_or_unknown(
    agent: Agent, fault: Fault
) -> None:
    ends = await each_byte(agent, fault)
    assert set(ends) == {"connect: HostUnreachable", "call: OutcomeUnknown"}


async def test_a_connection_that_stalls_at_any_byte_ends_by_the_deadline(agent: Agent) -> None:
    ends = await each_byte(agent, "stall", step=4)
    assert set(ends) == {"connect: HostUnreachable", "call: OutcomeUnknown"}


@pytest.mark.parametrize("fault", ["flip", "insert", "drop"])
async def test_damage_at_any_byte_ends_by_name_or_goes_unnoticed_in_a_value(
    agent: Agent, fault: Fault
) -> None:
    ends = await each_byte(agent, fault)
    named = {f"{when}: {error.__name__}" for when in ("connect", "call") for error in NAMED}
    assert set(ends) <= named | {"answered"}
    assert ends["call: OutcomeUnknown"] > 100
    assert ends["connect: HostUnreachable"] > 20
