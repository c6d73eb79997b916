"""What an engine is doing, as it knows itself: for `engine members tasks` and `engine status --live`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from signal import Signals
from typing import Any, ClassVar

from engine.plugin import Activity, Task, TaskContext, argument, integer


@dataclass(frozen=True, slots=True)
class TasksArguments:
    limit: int = argument(integer(1, 1000), default=200, help="how many at most, the oldest first")


class MemberTasks(Task):
    description = "What an engine is doing now: commands, calls and singletons, the oldest first"
    arguments_type = TasksArguments
    result_type = tuple[Activity, ...]
    idempotent = True
    timeout_seconds = 5.0

    async def run(self, context: TaskContext, arguments: TasksArguments) -> tuple[Activity, ...]:
        found = sorted(context.view.activities(), key=lambda activity: activity.since)
        return tuple(one for one in found if (one.kind, one.name) != ("call", "member_tasks"))[
            : arguments.limit
        ]


class SignalledMember(Task):
    """What an engine does to itself by a signal, as an operator on its machine would."""

    timeout_seconds = 5.0
    signal: ClassVar[Signals]

    async def run(self, context: TaskContext, arguments: Any) -> None:
        context.authority.check()
        os.kill(os.getpid(), self.signal)


class RestartMember(SignalledMember):
    description = "Have an engine hand over all it has, end, and start again"
    signal = Signals.SIGHUP


class DrainMember(SignalledMember):
    description = "Have an engine hand over all it has and own nothing, but go on running"
    idempotent = True
    signal = Signals.SIGUSR1


class UndrainMember(SignalledMember):
    description = "Have an engine that was drained take its share again"
    idempotent = True
    signal = Signals.SIGUSR2


class MemberStatistics(Task):
    description = "An engine's own numbers at this moment, by name"
    result_type = dict[str, float]
    idempotent = True
    timeout_seconds = 5.0

    async def run(self, context: TaskContext, arguments: Any) -> dict[str, float]:
        return dict(context.view.measures())
