"""Runs the singletons of one engine: those of the cluster under campaigns, its own directly.

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
from datetime import datetime
from typing import Any, Self

from engine.clock import utcnow
from engine.coordination.session import Session
from engine.election.campaign import Campaign
from engine.election.terms import engine_term
from engine.errors import AuthorityLost
from engine.plugin import EngineId, PluginContext, Scope
from engine.singletons.backoff import BackOff
from engine.singletons.duty import Duty, DutySettings, DutyState, DutyStatus, Terms
from engine.singletons.loading import Catalogue, RefusedPlugin, SingletonPlugin

LOG = logging.getLogger(__name__)


class SingletonRunner:
    """All duties of this engine. `contexts` makes what a singleton is built with."""

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
        self._refused = catalogue.refused
        self._started = now()
        self._duties = [
            Duty(
                plugin,
                contexts(plugin),
                settings=settings or DutySettings(back_off=BackOff()),
                chance=chance,
            )
            for plugin in catalogue.plugins
        ]

    @contextlib.asynccontextmanager
    async def serving(self, session: Session, *, incarnation: int) -> AsyncIterator[Self]:
        """Run every duty under this session while the body runs. The session must be held (a member).

        Leaving stops all at once and gives all leaderships back before it returns.
        """
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    self._serve(duty, self._terms(duty, session, incarnation)),
                    name=f"duty {duty.plugin.name}",
                )
                for duty in self._duties
            ]
            try:
                yield self
            finally:
                for task in tasks:
                    task.cancel()

    def status(self) -> tuple[DutyStatus, ...]:
        """What is installed and where it stands on this engine, in order of name."""
        refused = [self._status_of(plugin) for plugin in self._refused]
        return tuple(sorted([duty.status for duty in self._duties] + refused, key=lambda status: status.name))

    def _terms(self, duty: Duty, session: Session, incarnation: int) -> Terms:
        if duty.plugin.scope is Scope.ENGINE:
            return functools.partial(
                engine_term, session, duty.plugin.name, engine=self._engine, incarnation=incarnation
            )
        campaign = Campaign(session, duty.plugin.name, engine=self._engine, incarnation=incarnation)
        return campaign.leading

    async def _serve(self, duty: Duty, terms: Terms) -> None:
        try:
            await duty.run(terms)
        except AuthorityLost as error:  # the session is over, and the scope that holds us ends with it
            LOG.info("singleton %s: no further term in this session: %s", duty.plugin.name, error)

    def _status_of(self, plugin: RefusedPlugin) -> DutyStatus:
        return DutyStatus(
            name=plugin.name,
            source=plugin.source,
            scope=None,
            state=DutyState.REFUSED,
            since=self._started,
            fault=plugin.reason,
            details=plugin.details,
        )


def settings_from(group: Mapping[str, Any]) -> DutySettings:
    """From the values of `[singletons]`."""
    return DutySettings(
        back_off=BackOff(first_seconds=group["retry_seconds"], longest_seconds=group["retry_max_seconds"]),
        stop_seconds=group["stop_seconds"],
    )
