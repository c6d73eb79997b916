"""What is done outside the database: acting, probing and compensating; and what came of it.

Nothing here writes a result: each call returns an `Outcome`, and the run writes what follows. Authority
is checked right before each effect. What says for certain that nothing was done is told apart from what
leaves it open.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from engine.commands.committed import Committed
from engine.commands.records import StepRecord
from engine.commands.transactions import MakeContext
from engine.errors import (
    AuthorityLost,
    Conflict,
    EngineError,
    Fenced,
    HostRefused,
    HostUnreachable,
    InvalidInput,
    NotFound,
    Unavailable,
)
from engine.plugin import NOT_HAPPENED, GoBack, Happened, Json, Step

LOG = logging.getLogger(__name__)

REFUSALS = (Conflict, InvalidInput, NotFound, HostRefused)
"""What says for certain that nothing was done."""


@dataclass(frozen=True, slots=True)
class Done:
    """It happened."""

    result: Json


@dataclass(frozen=True, slots=True)
class Refused:
    """It did not happen, and will not."""

    why: str


@dataclass(frozen=True, slots=True)
class Back:
    """It did not happen; the command goes on from an earlier step."""

    to: GoBack


@dataclass(frozen=True, slots=True)
class NotSent:
    """It did not happen, since its host could not be reached."""

    why: str


@dataclass(frozen=True, slots=True)
class NotThere:
    """A probe has not found it."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may or may not have happened."""

    why: str


Outcome = Done | Refused | Back | NotSent | NotThere | Unknown


class Effects:
    """Of one command. All raise `AuthorityLost`, `Fenced`."""

    def __init__(self, row: Committed, context: MakeContext) -> None:
        self._row = row
        self._context = context

    async def act(self, step: Step, record: StepRecord) -> Outcome:
        context = self._context(self._row.history, record)
        await self._row.permitted()
        try:
            async with asyncio.timeout(step.timeout_seconds):
                return Done(await step.act(context))
        except HostUnreachable as error:
            return NotSent(str(error))
        except GoBack as back:
            return Back(back)
        except REFUSALS as error:
            return Refused(str(error))
        except (AuthorityLost, Fenced):
            raise
        except (Unavailable, TimeoutError) as error:
            return Unknown(str(error) or "no answer in time")
        except Exception as error:
            LOG.exception("command=%s step=%s: failed unexpectedly", self._row.id, record.name)
            return Unknown(f"failed unexpectedly: {error!r}")

    async def probe(self, step: Step, record: StepRecord) -> Outcome:
        try:
            await self._row.permitted()
            async with asyncio.timeout(step.timeout_seconds):
                found = await step.probe(self._context(self._row.history, record))
        except (AuthorityLost, Fenced):
            raise
        except (EngineError, TimeoutError) as error:
            LOG.info("command=%s step=%s: cannot be probed: %s", self._row.id, record.name, error)
            return Unknown(str(error))
        except Exception as error:
            LOG.exception("command=%s step=%s: the probe failed unexpectedly", self._row.id, record.name)
            return Unknown(repr(error))
        if isinstance(found, Happened):
            return Done(found.result)
        return NotThere() if found is NOT_HAPPENED else Unknown("it could not be found out")

    async def fenced(self, step: Step, record: StepRecord) -> Outcome:
        """Its host was off: nothing of it is on its way, and nothing has to be undone there."""
        try:
            found = await step.fenced(self._context(self._row.history, record))
        except GoBack as back:
            return Back(back)
        if isinstance(found, Happened):
            return Done(found.result)
        return Refused(f"the host of its step {record.name} was fenced")

    async def compensate(self, step: Step, record: StepRecord) -> Exception | None:
        """Why the effect cannot be undone now; None where it is."""
        try:
            await self._row.permitted()
            async with asyncio.timeout(step.timeout_seconds):
                await step.compensate(self._context(self._row.history, record))
        except (AuthorityLost, Fenced):
            raise
        except Exception as error:
            if not isinstance(error, EngineError | TimeoutError):
                LOG.exception("command=%s step=%s: could not be undone", self._row.id, record.name)
            return error
        return None
