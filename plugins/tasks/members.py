"""What an engine is doing, as it knows itself: for `engine members tasks` and `engine status --live`."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any

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


class RestartMember(Task):
    description = "Have an engine hand over all it has, end, and start again"
    timeout_seconds = 5.0

    async def run(self, context: TaskContext, arguments: Any) -> None:
        context.authority.check()
        os.kill(os.getpid(), signal.SIGHUP)


class DrainMember(Task):
    description = "Have an engine hand over all it has and own nothing, but go on running"
    idempotent = True
    timeout_seconds = 5.0

    async def run(self, context: TaskContext, arguments: Any) -> None:
        context.authority.check()
        os.kill(os.getpid(), signal.SIGUSR1)


class UndrainMember(Task):
    description = "Have an engine that was drained take its share again"
    idempotent = True
    timeout_seconds = 5.0

    async def run(self, context: TaskContext, arguments: Any) -> None:
        context.authority.check()
        os.kill(os.getpid(), signal.SIGUSR2)


class MemberStatistics(Task):
    description = "An engine's own numbers at this moment, by name"
    result_type = dict[str, float]
    idempotent = True
    timeout_seconds = 5.0

    async def run(self, context: TaskContext, arguments: Any) -> dict[str, float]:
        return dict(context.view.measures())
