"""One singleton on one engine: waits for its turn, runs under leadership, and is kept from harming.

Whatever the plugin does (raise, return, exit, cancel itself, ignore its cancellation) stays here: it
is logged with its traceback, the leadership is given back so that another engine may try, and the
plugin rests before it tries again. Never are two instances of one plugin alive in one engine: while
an abandoned one has not ended, the duty stands back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any

from engine.clock import boottime
from engine.election.leadership import HeldLeadership
from engine.errors import AuthorityLost, Unavailable
from engine.plugin import PluginContext
from engine.singletons.backoff import BackOff
from engine.singletons.brood import Brood
from engine.singletons.loading import SingletonPlugin
from engine.singletons.status import DutyState, DutyStatus
from engine.singletons.threads import run_singleton

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fault:
    """How a plugin ended though nobody asked it to."""

    summary: str
    details: str = ""
    blameless: bool = False
    """It gave up because authority was in doubt, as it should."""


Terms = Callable[[], AbstractAsyncContextManager[HeldLeadership]]
"""Waits for its turn on entering, gives the leadership back on leaving."""


@dataclass(slots=True, kw_only=True)
class DutySettings:
    """Read at each use, since they may change meanwhile.

    After `yield_after` failures in a row here other engines are to lead for `yield_seconds`. A beat
    longer than `beat_seconds` hangs (0: none does)."""

    back_off: BackOff
    stop_seconds: float = 3.0
    beat_seconds: float = 0.0
    yield_after: int = 3
    yield_seconds: float = 300.0


class Duty:
    """One for each plugin, for the life of the process; `run` it once a session."""

    def __init__(
        self,
        plugin: SingletonPlugin,
        context: PluginContext,
        *,
        settings: DutySettings,
        chance: Callable[[], float],
        told: Callable[[], None] = lambda: None,
    ) -> None:
        """`told` is called when the status has changed."""
        self.plugin = plugin
        self._context = context
        self._settings = settings
        self._chance = chance
        self._told = told
        self._stirred = asyncio.Event()
        self._forgiving: asyncio.TimerHandle | None = None
        self._abandoned: asyncio.Task[Fault] | None = None
        self.status = DutyStatus(
            name=plugin.name,
            source=plugin.source,
            scope=plugin.scope,
            state=DutyState.STARTING,
            since=context.now(),
        )

    async def run(self, terms: Terms) -> None:
        """Serve term after term until cancelled, or until `terms` raises that none can follow."""
        try:
            while True:
                if self._abandoned is not None:
                    self._note(DutyState.STUCK)
                    await asyncio.wait({self._abandoned})
                    LOG.info("singleton %s: the abandoned run has ended", self.plugin.name)
                    self._abandoned = None
                await self._one_term(terms)
        finally:
            self._note(DutyState.STOPPED)

    def stir(self) -> None:
        """Rest no longer: somebody wants it to run now."""
        self._stirred.set()

    async def _one_term(self, terms: Terms) -> None:
        self._note(DutyState.WAITING)
        try:
            async with terms() as term:
                self._note(DutyState.RUNNING, token=term.token)
                began = boottime()
                fault = await self._serve(term)
                lasted = boottime() - began
        except Unavailable as error:
            LOG.info("singleton %s: no term yet: %s", self.plugin.name, error)
            await asyncio.sleep(self._settings.back_off.seconds(1, self._chance()))
            return
        if lasted >= self._settings.back_off.longest_seconds:
            self.status = replace(self.status, failures=0)
            self._forgive()
        if fault is not None:
            await self._rest(fault)

    async def _serve(self, term: HeldLeadership) -> Fault | None:
        """Run the plugin until it faults (returned) or the term ends (None)."""
        name = f"singleton {self.plugin.name}"
        brood = Brood(self.plugin.factory)
        work = asyncio.create_task(self._contained(term), name=name, context=brood.context())
        ended = asyncio.create_task(term.ended.wait(), name=f"{name} term")
        try:
            while not await _any_of(work, ended, timeout_seconds=self._beat_left_seconds(term)):
                if self._beat_left_seconds(term) == 0:
                    return Fault(f"a beat took longer than {self._beat_seconds:g} s", "".join(_where(work)))
            if work.done() and not term.ended.is_set():
                return Fault("it cancelled itself") if work.cancelled() else work.result()
            LOG.info("singleton %s: the term is over: %s", self.plugin.name, term.reason)
        finally:
            ended.cancel()
            term.end("the singleton is being stopped")  # a plugin that ignores its cancellation acts no more
            await self._stop(work)
            self._end_tasks(brood)
        return None

    @property
    def _beat_seconds(self) -> float:
        own = self.plugin.factory.beat_seconds
        return self._settings.beat_seconds if own is None else own

    def _beat_left_seconds(self, term: HeldLeadership) -> float | None:
        """How long the present beat, or one that may begin, has left; None: any time."""
        limit = self._beat_seconds
        return max(0.0, limit - term.longest_beat_seconds()) if limit else None

    async def _contained(self, term: HeldLeadership) -> Fault:
        """Run the plugin and tell how it ended. A SystemExit that left a task would end the loop."""
        try:
            made = self.plugin.factory(self._context)
            await run_singleton(made, term, name=f"singleton {self.plugin.name}")
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except AuthorityLost as error:
            return Fault(f"it gave up: {error}", blameless=True)
        except BaseException as error:
            return Fault(f"{type(error).__name__}: {error}", traceback.format_exc())
        return Fault("run() returned; a singleton runs until it is cancelled")

    async def _stop(self, work: asyncio.Task[Fault]) -> None:
        if work.done():
            return
        work.cancel()
        done, _ = await asyncio.wait({work}, timeout=self._settings.stop_seconds)
        if not done:
            self._abandoned = work
            fault = f"it ignored its cancellation for {self._settings.stop_seconds:g} s"
            where = "".join(_where(work))
            self.status = replace(
                self.status, failed_at=self._context.now(), fault=fault, details=f"It waits at\n{where}"
            )
            LOG.error("singleton %s: abandoned, %s; it waits at\n%s", self.plugin.name, fault, where)
        elif not work.cancelled() and work.result().details:
            LOG.warning("singleton %s: raised when cancelled\n%s", self.plugin.name, work.result().details)

    def _end_tasks(self, brood: Brood) -> None:
        """What a run has started ends with it."""
        left = brood.left()
        if not left:
            return
        self.status = replace(self.status, tasks_left=self.status.tasks_left + len(left))
        LOG.error(
            "singleton %s: left %d tasks behind, which are cancelled: %s",
            self.plugin.name,
            len(left),
            "; ".join(f"{task.get_name()} at {''.join(_where(task)).strip()}" for task in left[:5]),
        )
        for task in left:
            task.cancel()

    async def _rest(self, fault: Fault) -> None:
        if fault.blameless:
            LOG.info("singleton %s: %s", self.plugin.name, fault.summary)
            await asyncio.sleep(self._settings.back_off.seconds(1, self._chance()))
            return
        failures = self.status.failures + 1
        seconds = self._settings.back_off.seconds(failures, self._chance())
        self.status = replace(
            self.status,
            failures=failures,
            failed_at=self._context.now(),
            fault=fault.summary,
            details=fault.details,
        )
        if failures >= self._settings.yield_after:
            self._yield()
        self._stirred.clear()
        self._note(DutyState.RESTING)
        LOG.error(
            "singleton %s: %s (failure %d in a row; resting %.1f s)\n%s",
            self.plugin.name,
            fault.summary,
            failures,
            seconds,
            fault.details,
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stirred.wait()

    def _yield(self) -> None:
        """From here on every other engine comes before this one, for a while."""
        if self._forgiving is not None:
            self._forgiving.cancel()
        self.status = replace(self.status, yielding=True)
        loop = asyncio.get_running_loop()
        self._forgiving = loop.call_later(self._settings.yield_seconds, self._forgive)

    def _forgive(self) -> None:
        if self._forgiving is not None:
            self._forgiving.cancel()
            self._forgiving = None
            self.status = replace(self.status, yielding=False)
            self._told()

    def _note(self, state: DutyState, *, token: int | None = None) -> None:
        self.status = replace(self.status, state=state, since=self._context.now(), token=token)
        self._told()


async def _any_of(*tasks: asyncio.Task[Any], timeout_seconds: float | None) -> bool:
    """Whether any was done within the time."""
    done, _ = await asyncio.wait(tasks, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    return bool(done)


def _where(task: asyncio.Task[Any]) -> list[str]:
    """Where a task waits, outermost first; `Task.get_stack` shows only its outermost frame."""
    lines: list[str] = []
    waiting: object = task.get_coro()
    while (frame := getattr(waiting, "cr_frame", None)) is not None:
        lines.append(
            f'  File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_name}\n'
        )
        waiting = getattr(waiting, "cr_await", None)
    return lines
