"""Commands that runs wait for, looked at together.

A command goes on whatever becomes of the engine that asked for it, so it is never asked for twice: whoever
owns the job now waits for its end, by looking. Used by `run.py`.
"""

from __future__ import annotations

import asyncio
import logging

from engine.errors import EngineError
from engine.scheduler.services import CommandEnd, Commands

LOG = logging.getLogger(__name__)


class CommandWatch:
    """`run` is the one that looks."""

    def __init__(self, commands: Commands, *, every_seconds: float) -> None:
        self._commands = commands
        self._every_seconds = every_seconds
        self._awaited: dict[str, asyncio.Future[CommandEnd]] = {}
        self._wanted = asyncio.Event()

    async def ended(self, command_id: str) -> CommandEnd:
        """How the command has ended, once it has."""
        future = self._awaited.setdefault(command_id, asyncio.get_running_loop().create_future())
        self._wanted.set()
        try:
            return await asyncio.shield(future)
        finally:
            self._awaited.pop(command_id, None)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self._wanted.wait()
            await asyncio.sleep(self._every_seconds)
            if not self._awaited:
                self._wanted.clear()
                continue
            try:
                ends = await self._commands.ended(list(self._awaited))
            except EngineError as error:
                LOG.warning("commands of jobs cannot be looked at: %s", error)
                continue
            for end in ends:
                future = self._awaited.get(end.command_id)
                if future is not None and not future.done():
                    future.set_result(end)
