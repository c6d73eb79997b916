"""What the engines themselves say at this moment, gathered by calling them: a host as its owner sees it,
what each engine is doing, and the numbers of all.

Everything else that the API shows comes from the database and from ZooKeeper. An engine that does not
answer in time is an error in its place; the others are shown.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import falcon
import msgspec
from falcon.asgi import Request, Response

from engine.api.dependencies import Dependencies
from engine.api.fields import Fields, integer
from engine.api.http import answer
from engine.coordination.membership import Member
from engine.errors import Conflict, NotFound, Unavailable
from engine.plugin import Answer, Calls, OnMember, OwnerOf

SECONDS = 3
"""How long an engine may take, unless the request says otherwise."""


def _calls(dependencies: Dependencies) -> Calls:
    if dependencies.calls is None:
        raise Unavailable("this API calls no engines")
    return dependencies.calls


def _member(dependencies: Dependencies, engine: str) -> Member:
    for member in dependencies.cluster.snapshot.members:
        if member.engine == engine:
            return member
    raise NotFound(f"there is no engine {engine[:100]!r} in the cluster now")


def _seconds(request: Request) -> int:
    with Fields(request.params) as fields:
        return fields.take("seconds", integer(1, 30), default=SECONDS)


class LiveHost:
    """`GET /v1/hosts/{host}/live`: the host as the monitor of its owner sees it."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies

    async def on_get(self, request: Request, response: Response, host: str) -> None:
        seconds = _seconds(request)
        found = await self._dependencies.hosts.get(host)
        live = await _calls(self._dependencies).call(
            "host_live", on=OwnerOf(found.id), timeout_seconds=seconds
        )
        answer(response, {"id": found.id, "name": found.name, **live})


class MemberTasks:
    """`GET /v1/members/tasks`: what each engine is doing now, the oldest first."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies

    async def on_get(self, request: Request, response: Response) -> None:
        answers = await _of_all(self._dependencies, "member_tasks", _seconds(request))
        tasks = [
            {"engine": each.engine, **msgspec.to_builtins(activity)}
            for each in answers
            if each.error is None
            for activity in each.result
        ]
        answer(
            response,
            {"tasks": sorted(tasks, key=lambda task: str(task["since"])), "errors": _errors(answers)},
        )


class RestartMember:
    """`POST /v1/members/{member}/restart`: it hands over all it has, ends, and starts again."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies

    async def on_post(self, request: Request, response: Response, member: str) -> None:
        found = _member(self._dependencies, member)
        await _calls(self._dependencies).call("restart_member", on=OnMember(found.engine))
        answer(response, {"engine": member, "started": found.started}, status=falcon.HTTP_202)


class DrainMember:
    """`POST /v1/members/{member}/drain`: it hands over all it has and owns nothing, but goes on running."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies

    async def on_post(self, request: Request, response: Response, member: str) -> None:
        found = _member(self._dependencies, member)
        members = self._dependencies.cluster.snapshot.members
        if not any(other.state == "up" and other.engine != found.engine for other in members):
            raise Conflict(f"no engine but {found.engine} is up: its hosts would be nobody's")
        await _calls(self._dependencies).call("drain_member", on=OnMember(found.engine))
        answer(response, {"engine": member}, status=falcon.HTTP_202)


class UndrainMember:
    """`POST /v1/members/{member}/undrain`: it takes its share again."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies

    async def on_post(self, request: Request, response: Response, member: str) -> None:
        found = _member(self._dependencies, member)
        await _calls(self._dependencies).call("undrain_member", on=OnMember(found.engine))
        answer(response, {"engine": member}, status=falcon.HTTP_202)


class Statistics:
    """`GET /v1/statistics`: the numbers of each engine, and of all together."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies

    async def on_get(self, request: Request, response: Response) -> None:
        answers = await _of_all(self._dependencies, "member_statistics", _seconds(request))
        engines = {str(each.engine): each.result for each in answers if each.error is None}
        answer(
            response,
            {
                "engines": dict(sorted(engines.items())),
                "total": total(list(engines.values())),
                "errors": _errors(answers),
            },
        )


def total(engines: list[dict[str, float]]) -> dict[str, float]:
    """All together: sums, but of the slowest percentiles the worst and of authority the least."""
    sums: Counter[str] = Counter()
    found: dict[str, float] = {}
    for numbers in engines:
        for name, number in numbers.items():
            if name.endswith("_p99") or name.startswith("map_entries:"):
                found[name] = max(found.get(name, 0.0), number)
            elif name == "authority_seconds":
                found[name] = min(found.get(name, number), number)
            else:
                sums[name] += number  # type: ignore[assignment]
    return {**sums, **found}


async def _of_all(dependencies: Dependencies, task: str, seconds: int) -> list[Answer]:
    calls = _calls(dependencies)
    return [each async for each in calls.call_all(task, timeout_seconds=seconds)]


def _errors(answers: list[Answer]) -> list[dict[str, Any]]:
    return [{"engine": each.engine, "error": str(each.error)} for each in answers if each.error is not None]
