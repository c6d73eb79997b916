"""Runs the singletons of one engine: those of the cluster under campaigns, its own and its shards' directly.

A runner lives as long as the process, so it remembers who failed and who hangs; `serving` is entered
once for each ZooKeeper session. No plugin can end it: a body under `serving` is cancelled only by a
mistake of the engine itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Self

from engine.clock import utcnow
from engine.coordination.session import Session
from engine.election.campaign import Campaign
from engine.election.terms import engine_term
from engine.errors import AuthorityLost
from engine.plugin import EngineId, PluginContext, Scope
from engine.singletons.backoff import BackOff
from engine.singletons.board import DutyBoard
from engine.singletons.brood import know_tasks
from engine.singletons.duty import Duty, DutySettings, Terms
from engine.singletons.loading import Catalogue, RefusedPlugin, SingletonPlugin
from engine.singletons.shards import ShardDuties
from engine.singletons.status import DutyState, DutyStatus

LOG = logging.getLogger(__name__)


class SingletonRunner:
    """All duties of this engine. `contexts` makes what a singleton is built with.

    `shards` is work for the shards that this engine owns; add it to ownership's before the first is
    adopted.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        engine: EngineId,
        contexts: Callable[[SingletonPlugin], PluginContext],
        settings: DutySettings | None = None,
        now: Callable[[], datetime] = utcnow,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._engine = engine
        self._settings = settings or DutySettings(back_off=BackOff())
        self._contexts = contexts
        self._chance = chance
        self._board: DutyBoard | None = None
        self._idle = asyncio.Event()
        self._duties: list[Duty] = []
        self._refused = [_status_of(plugin, now()) for plugin in catalogue.refused]
        of_shards = [plugin for plugin in catalogue.plugins if plugin.scope is Scope.SHARD]
        self._duties = [self._duty_of(p) for p in catalogue.plugins if p.scope is not Scope.SHARD]
        self.shards = ShardDuties(of_shards, engine=engine, duty_of=self._duty_of)

    @contextlib.asynccontextmanager
    async def attending(self, session: Session) -> AsyncIterator[Self]:
        """Take part in the cluster's duties; from here on the duties of adopted shards run."""
        know_tasks(asyncio.get_running_loop())
        async with DutyBoard.watching(session, self._engine, status=self.status) as board:
            self._board = board
            stirring = _Stirring(board, self._stir)
            try:
                async with self.shards.serving(session, board):
                    yield self
            finally:
                stirring.close()
                self._board = None

    @contextlib.asynccontextmanager
    async def serving(self, session: Session, *, incarnation: int) -> AsyncIterator[Self]:
        """Run every duty under this session while the body runs. The session must be held (a member).

        Leaving stops all at once and gives all leaderships back before it returns.
        """
        async with contextlib.AsyncExitStack() as stack:
            if self._board is None:
                await stack.enter_async_context(self.attending(session))
            assert self._board is not None
            board = self._board
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(
                        self._serve(duty, self._terms(duty, session, incarnation, board)),
                        name=f"duty {duty.plugin.name}",
                    )
                    for duty in self._duties
                ]
                try:
                    yield self
                finally:
                    for task in tasks:
                        task.cancel()

    async def drain(self) -> None:
        """Give all leaderships away, each at its next safe point; no longer than a stop may take."""
        if self._board is None:
            return
        await self._board.drain()
        self._look_idle()
        try:
            async with asyncio.timeout(self._settings.stop_seconds):
                await self._idle.wait()
        except TimeoutError:
            LOG.info("draining ends these in the middle of their work: %s", ", ".join(self._running()))

    def undrain(self) -> None:
        """Lead again what falls to this engine."""
        if self._board is not None:
            self._board.undrain()

    def _running(self) -> list[str]:
        return [duty.plugin.name for duty in self._duties if duty.status.state is DutyState.RUNNING]

    def _look_idle(self) -> None:
        if self._running():
            self._idle.clear()
        else:
            self._idle.set()

    def status(self) -> tuple[DutyStatus, ...]:
        """What is installed and where it stands on this engine, in order of name."""
        known = [*(duty.status for duty in self._duties), *self.shards.status(), *self._refused]
        return tuple(sorted((self._with_orders(status) for status in known), key=lambda s: s.name))

    def _with_orders(self, status: DutyStatus) -> DutyStatus:
        waits = status.state is DutyState.WAITING and self._board is not None
        if waits and self._board is not None and self._board.paused(status.name):
            return replace(status, state=DutyState.PAUSED)
        return status

    def _duty_of(self, plugin: SingletonPlugin) -> Duty:
        return Duty(
            plugin,
            self._contexts(plugin),
            settings=self._settings,
            chance=self._chance,
            told=self._changed,
        )

    def _changed(self) -> None:
        self._look_idle()
        if self._board is not None:
            self._board.changed()

    def _stir(self, name: str) -> None:
        self.shards.stir(name)
        for duty in self._duties:
            if duty.plugin.name == name:
                duty.stir()

    def _terms(self, duty: Duty, session: Session, incarnation: int, board: DutyBoard) -> Terms:
        if duty.plugin.scope is Scope.ENGINE:
            return functools.partial(
                engine_term,
                session,
                duty.plugin.name,
                engine=self._engine,
                incarnation=incarnation,
                standings=board,
            )
        campaign = Campaign(
            session,
            duty.plugin.name,
            engine=self._engine,
            incarnation=incarnation,
            lines=board.lines,
            standings=board,
        )
        return campaign.leading

    async def _serve(self, duty: Duty, terms: Terms) -> None:
        try:
            await duty.run(terms)
        except AuthorityLost as error:  # the session is over, and the scope that holds us ends with it
            LOG.info("singleton %s: no further term in this session: %s", duty.plugin.name, error)


class _Stirring:
    """Whoever rests when somebody asks for a run rests no longer."""

    def __init__(self, board: DutyBoard, stir: Callable[[str], None]) -> None:
        self._board = board
        self._stir = stir
        self._runs = self._asked()
        self.close = board.subscribe(self._look)

    def _asked(self) -> dict[str, int]:
        return {name: self._board.of(name).runs for name in self._board.lines.names()}

    def _look(self) -> None:
        before, self._runs = self._runs, self._asked()
        for name, runs in self._runs.items():
            if runs != before.get(name, 0):
                self._stir(name)


def _status_of(plugin: RefusedPlugin, since: datetime) -> DutyStatus:
    return DutyStatus(
        name=plugin.name,
        source=plugin.source,
        scope=None,
        state=DutyState.REFUSED,
        since=since,
        fault=plugin.reason,
        details=plugin.details,
    )


def settings_from(group: Mapping[str, Any]) -> DutySettings:
    """From the values of `[singletons]`."""
    return DutySettings(
        back_off=BackOff(first_seconds=group["retry_seconds"], longest_seconds=group["retry_max_seconds"]),
        stop_seconds=group["stop_seconds"],
        beat_seconds=group["beat_seconds"],
        yield_after=group["yield_after_failures"],
        yield_seconds=group["yield_seconds"],
    )
