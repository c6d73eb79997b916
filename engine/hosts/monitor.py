"""Watches one host: `poll` is one round of questions, and its answers move the host's status.

There is no task of its own and no timer: the fleet calls `poll` when `wants_poll` says so, so an
idle host costs this object and its connection. A driver checks authority before each write; while
a check refuses, nothing is concluded about the host. Invariant: only an answer of the host, or the
lack of one while this engine was allowed to ask, changes its status.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from engine.errors import AuthorityLost, EngineError, HostRefused, HostUnreachable
from engine.hosts.context import MonitorContext, ShardClaim
from engine.hosts.pacing import Grid, next_due
from engine.hosts.records import (
    REASON_LENGTH,
    ImplausibleAnswer,
    StatusChange,
    WatchedHost,
    capabilities_row,
    printable,
    statistics_row,
)
from engine.hosts.settling import Heard
from engine.hosts.status import (
    ASKED,
    MONITORED,
    PROVING,
    SETTLED,
    CapabilitiesOk,
    FoundUnfit,
    HostState,
    HostStatus,
    IllegalMove,
    NetworkFailed,
    Observation,
    Recovering,
    Refused,
    StatisticsOk,
    TimePassed,
    transition,
)
from engine.hosts.vms import VmTable, report_of
from engine.plugin import (
    HostConnection,
    HostDriver,
    HostEvent,
    HostTarget,
    VmId,
    VmReport,
)

_log = logging.getLogger(__name__)

RECOVERING_CODE = 99
BUSY_CODE = 1100
_CLOSE_SECONDS = 5.0


class HostMonitor:
    """One host, in the name of one claim. `due_at` is on the context's clock."""

    __slots__ = (
        "_busy",
        "_capabilities_due",
        "_context",
        "_driver",
        "_heeded_count",
        "_last_refusal",
        "_overran",
        "_reported_at",
        "_urgent",
        "_vms_at",
        "claim",
        "connection",
        "deadline_at",
        "due_at",
        "ended",
        "host",
        "slot",
        "state",
        "task",
        "vms",
    )

    def __init__(
        self, host: WatchedHost, claim: ShardClaim, driver: HostDriver | None, context: MonitorContext
    ) -> None:
        """`driver` is None where this engine has none of the name that the row gives."""
        now, wall = context.clock(), context.now()

        def ours(moment: datetime) -> float:
            return now - max(0.0, (wall - moment).total_seconds())

        self.host = host
        self.claim = claim
        self.state = HostState(
            status=host.status,
            reason=host.status_reason,
            since=ours(host.status_since),
            last_ok=None if host.reported_at is None else ours(host.reported_at),
            vms=host.vm_count,
        )
        self.connection: HostConnection | None = None
        self.vms = VmTable()
        self.task: asyncio.Task[None] | None = None  # the round in progress; the fleet's
        self.slot = context.grid.slot_of(host.id)
        self.due_at = now if host.status in MONITORED else math.inf
        self.deadline_at = math.inf  # of the round in progress
        self.ended = False
        self._overran = False
        self._driver = driver
        self._context = context
        self._busy = 0
        self._capabilities_due = False
        self._urgent = False
        self._vms_at = -math.inf
        self._reported_at = -math.inf
        self._last_refusal: str | None = None
        self._heeded_count = host.heeded_count

    def reconfigure(self, context: MonitorContext) -> None:
        """Go on under other settings: a host that is asked gets its turn on the new grid."""
        self._context = context
        self.slot = context.grid.slot_of(self.host.id)
        self._vms_at = -math.inf
        if math.isfinite(self.due_at):
            latest = context.grid.next_period(self.slot, context.clock())
            self.due_at = min(latest, context.grid.next_tick(self.slot, self.due_at))

    @property
    def grid(self) -> Grid:
        return self._context.grid

    def wants_poll(self, at: float) -> bool:
        """Whether a round is due, or the connection was lost and is to be made anew."""
        if self.due_at <= at:
            return True
        return self.connection is not None and self.connection.lost.is_set() and not self.ended

    async def poll(self) -> None:
        """One round. What the host or the driver does wrong never leaves this method."""
        started = self._context.clock()
        if self.state.status is not HostStatus.UP:  # which time alone never ends
            self._observe(TimePassed(started))
            if self.state.status not in MONITORED:
                await self.close()
                self.due_at = math.inf
                return
        if self._driver is None:
            self._observe(FoundUnfit(started, f"this engine has no driver {self.host.driver}"))
            self.due_at = math.inf
            return
        due_at = min(self.due_at, started)
        self._urgent = self._overran = False
        self._context.counters.polls += 1
        try:
            await self._ask(self._driver, due_at)
        except asyncio.CancelledError:
            if not self._was_cut_short():
                raise
            await self._failed("the driver did not answer within its deadline")
        except AuthorityLost:
            await self._hold_off()
        except (HostRefused, ImplausibleAnswer) as refused:
            self._refused(refused)
        except IllegalMove as late:
            # It was taken out of use while it was asked: what it answered counts no more.
            _log.info("%s: %s", self._called, late)
        except (EngineError, TimeoutError) as error:
            await self._failed(str(error) or "timed out")
        except Exception as error:
            # A fault of the driver must cost one host, not the engine's fleet.
            self._context.counters.faults += 1
            _log.exception("%s: the driver failed", self._called)
            await self._failed(f"the driver failed: {error!r}")
        else:
            self._busy = 0
            self._last_refusal = None
        if self.state.status not in MONITORED:
            await self.close()
        finished = self._context.clock()
        self._context.counters.poll_seconds.observe(finished - started)
        if self.ended or self.state.status not in MONITORED:
            self.due_at = math.inf
        else:
            self.due_at = next_due(
                self.state,
                self.slot,
                after=finished,
                grid=self._context.grid,
                settings=self._context.settings,
                busy=self._busy,
                urgent=self._urgent,
            )

    def cut_short(self) -> None:
        """The round in progress takes longer than any driver should: it has failed."""
        self.deadline_at = math.inf
        if self.task is not None:
            self._overran = True
            self.task.cancel()

    def _was_cut_short(self) -> bool:
        """Whether a cancellation was ours alone; then it has done its work."""
        task = asyncio.current_task()
        return self._overran and not self.ended and task is not None and task.uncancel() == 0

    def heard(self, event: HostEvent) -> None:
        """The host said something unasked."""
        if self.ended:
            return
        self._context.counters.events += 1
        at = self._context.clock()
        if event.kind == "vm_status":
            status = event.params.get("status")
            vm_id = VmId(event.subject)
            if isinstance(status, str) and self.vms.said(vm_id, status, stamped=event.notify_seconds, at=at):
                self._context.vms_heard(self._heard(said={vm_id: (report_of(event), self._context.now())}))
        elif event.kind == "network":
            # Not at once: a host that says so all the time gets one round a tick.
            self._capabilities_due = self._urgent = True
            self.due_at = min(self.due_at, self._context.grid.next_tick(self.slot, at))

    def heed(self, host: WatchedHost) -> None:
        """Do what has been asked of this host since, once, whatever comes of it."""
        self.host = host
        if host.asked_count <= self._heeded_count:
            return
        self._heeded_count = host.asked_count
        at = self._context.clock()
        try:
            if (asked := ASKED.get(host.asked or "")) is not None:
                self._observe(asked(at))
        except IllegalMove as refusal:
            _log.info("%s: %s", self._called, refusal)
        self._context.report(host.report(self.claim.epoch, heeded_count=host.asked_count))
        # A round also where the host is not to be asked any more: its connection has to be closed.
        self.due_at = at if self.state.status in MONITORED or self.connection is not None else math.inf

    def succeed(self, earlier: HostMonitor) -> None:
        """Go on where another monitor of the host leaves off, whose row was an older one."""
        self.state = earlier.state
        self._heeded_count = max(self._heeded_count, earlier._heeded_count)

    @property
    def connected(self) -> bool:
        return self.connection is not None and not self.connection.lost.is_set()

    def live(self) -> dict[str, Any]:
        """The host as it is known at this moment, ahead of its row."""
        state, now = self.state, self._context.clock()
        return {
            "status": str(state.status),
            "reason": state.reason,
            "in_status_for_seconds": round(now - state.since, 3),
            "last_answer_seconds_ago": None if state.last_ok is None else round(now - state.last_ok, 3),
            "connected": self.connected,
            "polling": self.task is not None,
            "vms": dict(self.vms.statuses),
        }

    def end(self) -> None:
        """Act no more, from this moment on. `close` frees the connection afterwards."""
        self.ended = True
        self.due_at = math.inf
        if self.task is not None:
            self.task.cancel()

    async def close(self) -> None:
        """Close the connection, if there is one, without lingering."""
        if self.connection is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.connection.close()
        except TimeoutError:
            _log.warning("%s: the driver did not close the connection", self._called)
        except Exception:  # as above; whoever ends many hosts must end the others, too
            self._context.counters.faults += 1
            _log.exception("%s: the driver failed to close the connection", self._called)
        self.connection = None

    async def restart_agent(self) -> None:
        """Have the host's agent start again, then ask it soon; see `HostDriver.restart_agent`."""
        if self._driver is None:
            raise HostUnreachable(f"this engine has no driver {self.host.driver}")
        await self._driver.restart_agent(self._target, authority=self.claim.authority)
        if not self.ended:
            self.due_at = min(self.due_at, self._context.grid.next_tick(self.slot, self._context.clock()))

    # --- a round --------------------------------------------------------------------------------

    async def _ask(self, driver: HostDriver, due_at: float) -> None:
        connection = self.connection
        try:
            if connection is not None and not connection.lost.is_set():
                self._set_deadline()
                await self._ask_state(connection, due_at, fresh=False)
                await self._ask_vms(connection, fresh=False)
                return
            async with self._context.gate.passing():
                self._set_deadline()
                connection = await self._connect(driver)
                await self._ask_state(connection, due_at, fresh=True)
            # After a takeover of thousands each of them is asked something before any is asked for more.
            self.deadline_at = math.inf
            async with self._context.gate.passing():
                self._set_deadline()
                await self._ask_vms(connection, fresh=True)
        finally:
            self.deadline_at = math.inf

    def _set_deadline(self) -> None:
        """For the fleet to see to: a timer a round would be the dearest part of it."""
        self.deadline_at = self._context.clock() + self._context.settings.round_deadline_seconds

    async def _connect(self, driver: HostDriver) -> HostConnection:
        await self.close()
        self.vms.reconnected()
        self._capabilities_due = True
        self._context.counters.connects += 1
        self.connection = await driver.connect(
            self._target, authority=self.claim.authority, on_event=self.heard
        )
        if self.ended:  # the driver kept a cancellation to itself: nobody else would close this one
            await self.close()
            raise asyncio.CancelledError
        return self.connection

    @property
    def _target(self) -> HostTarget:
        return HostTarget(
            host_id=self.host.id,
            address=self.host.address,
            port=self.host.port,
            engine=self._context.engine,
            epoch=self.claim.epoch,
        )

    async def _ask_state(self, connection: HostConnection, due_at: float, *, fresh: bool) -> None:
        context = self._context
        context.counters.lateness.observe(context.clock() - due_at)
        capabilities: Mapping[str, Any] | None = None
        if self.state.status in PROVING:
            capabilities = await self._ask_capabilities(connection)
        elif self._capabilities_due and not fresh:
            # After a takeover the statistics come first: they show that the host is well.
            self._tell(capabilities=await self._ask_capabilities(connection))
        statistics = statistics_row(await connection.statistics())
        before = self.state.status
        self._observe(StatisticsOk(context.clock(), statistics["vm_count"]))
        news = capabilities is not None or self.state.status is not before
        self._tell(capabilities=capabilities, statistics=statistics, news=news)

    async def _ask_capabilities(self, connection: HostConnection) -> Mapping[str, Any]:
        self._capabilities_due = False  # before the call: what the host says meanwhile counts
        try:
            row = capabilities_row(await connection.capabilities())
        except BaseException:
            self._capabilities_due = True
            raise
        self._observe(CapabilitiesOk(self._context.clock()))
        return row

    async def _ask_vms(self, connection: HostConnection, *, fresh: bool) -> None:
        asked_at = self._context.clock()
        status = self.state.status
        if status in MONITORED and (fresh or status in SETTLED or asked_at >= self._vms_at):
            asked = self._context.now()
            reported = await connection.vms()
            self.vms.reported(reported, asked_at=asked_at)
            full = {vm.vm_id: vm for vm in reported}
            self._context.vms_heard(self._heard(full=full, asked_at=asked))
            self._vms_at = self._context.grid.next_period(self.slot, asked_at)

    # --- what is concluded ----------------------------------------------------------------------

    def _observe(self, observation: Observation) -> None:
        before = self.state.status
        self.state = transition(self.state, observation, self._context.settings.timings)
        after = self.state.status
        if after is before:
            return
        self._context.counters.transitions += 1
        why = f": {self.state.reason}" if self.state.reason else ""
        _log.info("%s: %s -> %s%s", self._called, before, after, why)
        change = StatusChange(before, after, self.state.reason, self._context.now())
        self._context.report(self.host.report(self.claim.epoch, changes=(change,)))

    def _tell(
        self,
        *,
        capabilities: Mapping[str, Any] | None = None,
        statistics: Mapping[str, Any] | None = None,
        news: bool = True,
    ) -> None:
        """Report to the database; what is no news, once a period."""
        at = self._context.clock()
        settings = self._context.settings
        if not news and at < self._reported_at + settings.statistics_seconds - settings.tick_seconds / 2:
            return
        self._reported_at = at
        self._context.report(
            self.host.report(
                self.claim.epoch,
                reported_at=self._context.now(),
                capabilities=capabilities,
                statistics=statistics,
            )
        )

    def _refused(self, refused: HostRefused | ImplausibleAnswer) -> None:
        """The host is alive, and of no use just now."""
        self._context.counters.refusals += 1
        if self.state.status not in MONITORED:
            return
        at = self._context.clock()
        code = refused.code if isinstance(refused, HostRefused) else None
        self._busy = self._busy + 1 if code == BUSY_CODE else 0
        self._observe(Recovering(at) if code == RECOVERING_CODE else Refused(at))
        told = printable(str(refused), REASON_LENGTH)
        if told != self._last_refusal:
            self._last_refusal = told
            _log.warning("%s: %s", self._called, told)

    async def _failed(self, why: str) -> None:
        await self.close()
        try:
            self.claim.authority.check()
        except AuthorityLost:
            # Our own network is in doubt, or the call ended early for want of authority.
            await self._hold_off()
            return
        self._context.counters.failures += 1
        self._observe(NetworkFailed(self._context.clock(), printable(why, REASON_LENGTH)))
        if self.state.status is HostStatus.NON_RESPONSIVE:
            self._context.vms_heard(self._heard(silent_since=self._context.now()))

    async def _hold_off(self) -> None:
        """Authority refuses: for a while (the session is suspended), or for good."""
        self._urgent = True
        if self.claim.authority.remaining_seconds() <= 0.0:
            self.ended = True
            await self.close()

    def _heard(
        self,
        *,
        full: Mapping[VmId, VmReport] | None = None,
        asked_at: datetime | None = None,
        said: Mapping[VmId, tuple[VmReport, datetime]] | None = None,
        silent_since: datetime | None = None,
    ) -> Heard:
        return Heard(
            host_id=self.host.id,
            shard=self.host.shard,
            epoch=self.claim.epoch,
            full=full,
            asked_at=asked_at,
            said=said or {},
            silent_since=silent_since,
        )

    @property
    def _called(self) -> str:
        return f"engine={self._context.engine} host={self.host.id} name={self.host.name}"
