"""What an engine can say of a host at this moment: its owner from its monitor, any engine by knocking.

`host_reach` is asked of engines that do not own the host, before it is fenced: an engine that cannot
reach it may itself be what is cut off. A visit asks one question and changes nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from engine.plugin import (
    HostId,
    HostRefused,
    HostUnreachable,
    NotFound,
    OutcomeUnknown,
    Task,
    TaskContext,
    argument,
    identifier,
    integer,
)


class HostLive(Task):
    """Called on the owner of the host (`OwnerOf(host_id)`): no arguments, the key says which."""

    description = "A host as the engine that watches it sees it now, ahead of the database"
    result_type = dict[str, Any]
    idempotent = True
    timeout_seconds = 10.0

    async def run(self, context: TaskContext, arguments: Any) -> dict[str, Any]:
        if context.key is None:
            raise NotFound("host_live is called on the owner of a host")
        return {"engine": context.engine, **context.view.host(HostId(context.key))}


@dataclass(frozen=True, slots=True)
class ReachArguments:
    host_id: str = argument(identifier, help="the host to knock at")
    seconds: int = argument(integer(1, 30), default=5, help="how long to try")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """Whether the host's agent answered this engine. `lives`: something at its address did, the agent or
    its refusal. `why` tells what went wrong."""

    engine: str
    answered: bool
    lives: bool
    why: str = ""


class HostReach(Task):
    """Called on any member (`OnMember`), for a host that another one owns."""

    description = "Whether this engine can reach a host, asked with a connection of its own"
    arguments_type = ReachArguments
    result_type = Reached
    idempotent = True
    timeout_seconds = 40.0

    async def run(self, context: TaskContext, arguments: ReachArguments) -> Reached:
        me = context.engine
        try:
            async with (
                asyncio.timeout(arguments.seconds),
                context.visit(HostId(arguments.host_id)) as connection,
            ):
                await connection.statistics()
        except HostRefused as refusal:
            return Reached(engine=me, answered=False, lives=True, why=str(refusal))
        except (HostUnreachable, OutcomeUnknown) as error:
            return Reached(engine=me, answered=False, lives=False, why=str(error))
        except TimeoutError:
            return Reached(
                engine=me, answered=False, lives=False, why=f"no answer within {arguments.seconds} s"
            )
        return Reached(engine=me, answered=True, lives=True)
