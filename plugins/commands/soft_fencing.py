"""Soft fencing: the agent of a host that does not answer is started again, and the host has to answer.

It proves nothing about what runs there: no VM is set down, no step is settled, the host does not count as
off. Sent at most once a command: what an engine that died may have sent counts as sent. Asked for by
`host_treatment` before it has the power cut, and by people.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from engine.plugin import (
    Conflict,
    Happened,
    HostId,
    HostRefused,
    HostUnreachable,
    Json,
    OutcomeUnknown,
    Probed,
    Rows,
    Step,
    StepContext,
    argument,
    identifier,
    integer,
)
from plugins.commands.hosts import HostCommand, HostStep

_ASK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class RestartArguments:
    host_id: str = argument(identifier, help="the host")
    grace_seconds: int = argument(
        integer(1, 600), default=60, help="how long it has to answer after its agent was started again"
    )


class Restart(HostStep):
    """Not idempotent: an agent that has just begun must not be stopped again."""

    name = "restart"
    timeout_seconds = 310.0

    async def intend(self, context: StepContext, rows: Rows) -> None:
        host = await rows.get("host", self.host_id)
        message = f"the agent of host {host['name']} is started again: {host['status_reason'] or 'asked for'}"
        await rows.event("host_soft_fencing", message, host_id=self.host_id)

    async def act(self, context: StepContext) -> Json:
        try:
            await context.restart_agent()
        except HostUnreachable as error:  # it is not waited for: this way is for hosts out of reach
            raise Conflict(f"its agent cannot be started again: {error}") from error
        except OutcomeUnknown as error:
            return {"unknown": str(error)}
        return {}

    async def probe(self, context: StepContext) -> Probed:
        return Happened({"unknown": "the engine that sent it died"})


class AwaitAnswer(HostStep):
    """Its answer counts, also the one that it is recovering."""

    name = "await_answer"
    idempotent = True
    reads_only = True
    timeout_seconds = 700.0

    def __init__(self, arguments: RestartArguments) -> None:
        super().__init__(HostId(arguments.host_id))
        self.grace_seconds = arguments.grace_seconds

    async def act(self, context: StepContext) -> Json:
        try:
            async with asyncio.timeout(self.grace_seconds):
                while not await _answers(context):  # noqa: ASYNC110 - connections have no event
                    await asyncio.sleep(_ASK_SECONDS)
        except TimeoutError:
            why = f"no answer within {self.grace_seconds} s after its agent was started again"
            if (unknown := context.data["restart"].get("unknown")) is not None:
                why = f"{why}, if it was: {unknown}"
            raise Conflict(why) from None
        return {}

    async def record(self, context: StepContext, rows: Rows, result: Json) -> None:
        host = await rows.get("host", self.host_id)
        message = f"host {host['name']} answers again, after its agent was started again"
        await rows.event("host_soft_fenced", message, host_id=self.host_id)


async def _answers(context: StepContext) -> bool:
    """Asked over the connection that its monitor makes."""
    try:
        await context.connection().capabilities()
    except HostRefused:
        return True
    except (HostUnreachable, OutcomeUnknown):
        return False
    return True


class RestartAgent(HostCommand):
    arguments_type = RestartArguments
    arguments: RestartArguments
    description = "Start the agent of a host that does not answer again; its VMs run on"
    allowed = frozenset({"non_responsive", "connecting", "non_operational", "error", "initializing"})

    def steps(self) -> Sequence[Step]:
        return (Restart(self.host_id), AwaitAnswer(self.arguments))
