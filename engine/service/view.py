"""What an engine knows of itself, for the tasks that others call on it: `engine.plugin.EngineView`.

Read in the loop, without I/O: it answers while the database or a host does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.commands.executor import CommandExecutor
from engine.coordination.session import Session
from engine.execution.server import CallServer
from engine.hosts.fleet import HostFleet
from engine.plugin import Activity, HostId, Scope
from engine.sharding.ownership import Ownership
from engine.singletons.runner import SingletonRunner
from engine.singletons.status import DutyState

_COUNTERS = ("polls", "connects", "failures", "refusals", "transitions", "events", "reports_written")


class SelfView:
    """Of one session."""

    def __init__(
        self,
        *,
        session: Session,
        ownership: Ownership,
        fleet: HostFleet,
        executor: CommandExecutor,
        singletons: SingletonRunner,
        calls: CallServer,
        maps: Callable[[], Mapping[str, int]],
    ) -> None:
        """`maps`: how many entries each open clustered map has."""
        self._session = session
        self._ownership = ownership
        self._fleet = fleet
        self._executor = executor
        self._singletons = singletons
        self._calls = calls
        self._maps = maps

    def activities(self) -> Sequence[Activity]:
        commands = [
            Activity(
                kind="command",
                name=record.type,
                about=f"{record.entity_kind} {record.entity_id}",
                since=record.started_at or record.created_at,
                detail=record.message or str(record.state),
            )
            for record in self._executor.records
        ]
        duties = [
            Activity(
                kind="singleton",
                name=status.name,
                since=status.since,
                detail="leads" if status.scope is Scope.CLUSTER else "",
            )
            for status in self._singletons.status()
            if status.state is DutyState.RUNNING
        ]
        return [*self._calls.activities(), *commands, *duties]

    def measures(self) -> Mapping[str, float]:
        fleet = self._fleet
        counters = {f"hosts_{name}": float(getattr(fleet.counters, name)) for name in _COUNTERS}
        return {
            "shards_owned": len(self._ownership.owned),
            "authority_seconds": max(0.0, self._session.authority.remaining_seconds()),
            "hosts": len(fleet.monitors),
            "hosts_connected": fleet.monitors.connected,
            **counters,
            "hosts_poll_seconds_p99": fleet.counters.poll_seconds.quantile(0.99),
            "loop_lag_seconds_p99": fleet.counters.loop_lag.quantile(0.99),
            "commands_running": self._executor.running,
            "calls_begun": self._calls.begun,
            "calls_refused": self._calls.refused,
            **{f"map_entries:{name}": float(number) for name, number in self._maps().items()},
        }

    def host(self, host_id: HostId) -> dict[str, Any]:
        return self._fleet.monitors.live(host_id)
