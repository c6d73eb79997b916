"""`/v1/jobs`: what is run when, its history, and when it runs next.

A bad cron expression answers 422 with the column and the reason. Whatever is changed here is seen by the
job's owner at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import falcon
from falcon.asgi import Request, Response

from engine import arguments
from engine.api.commands import user_of, without_secrets
from engine.api.dependencies import Dependencies
from engine.api.entities import answer_version, wanted_version
from engine.api.fields import Fields, integer, several, text
from engine.api.http import EngineRequest, answer, next_link, read_json, take_paging
from engine.errors import NotFound
from engine.plugin import Json
from engine.scheduler.jobs.desk import JobDesk
from engine.scheduler.jobs.specification import as_moment, document
from engine.scheduler.jobs.store import JobStore
from engine.scheduler.records import Fire, FireState, Schedule, VersionConflict
from engine.sharding.hashing import shard_of

MOST_TIMES = 100


def desk_over(dependencies: Dependencies) -> JobDesk:
    """Where jobs are asked for."""

    def check_task(name: str, values: Json) -> None:
        arguments.parse(dependencies.tasks.find(name).kind.arguments_type, values)

    def check_command(name: str, values: Json) -> None:
        dependencies.commands.catalogue.build(name, values)

    return JobDesk(
        JobStore(dependencies.database),
        bump=dependencies.cluster.bump,
        shard_of=lambda id: shard_of(id, dependencies.shards),
        check_task=check_task,
        check_command=check_command,
    )


def job_document(job: Schedule) -> dict[str, Any]:
    said = document(job)
    return {
        "id": job.id,
        **said,
        "arguments": without_secrets(said["arguments"]),
        "next": job.next_fire_at,
        "origin": job.origin,
        "user": job.user,
        "shard": job.shard,
        "created_at": job.created_at,
        "version": job.version,
    }


def fire_document(fire: Fire) -> dict[str, Any]:
    began, ended = fire.started_at, fire.ended_at
    return {
        "planned_at": fire.fire_at,
        "state": fire.state,
        "cause": fire.cause,
        "attempt": fire.attempt,
        "engine": fire.engine,
        "started_at": began,
        "ended_at": ended,
        "seconds": (ended - began).total_seconds() if began and ended else None,
        "retry_at": fire.retry_at,
        "command": fire.command_id,
        "result": without_secrets(fire.result),
        "error": fire.error,
    }


@contextmanager
def _if_matching() -> Iterator[None]:
    try:
        yield
    except VersionConflict as error:
        raise falcon.HTTPPreconditionFailed(description=str(error)) from error


class Jobs:
    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk

    async def on_get(self, request: Request, response: Response) -> None:
        with Fields(request.params) as fields:
            limit, marker = take_paging(fields)
            group = fields.take("group", text, default=None)
        found = await self._desk.page(limit=limit + 1, after=marker, group=group)
        page = found[:limit]
        following = page[-1][0].name if len(found) > limit else None
        documents = [
            {**job_document(job), "last": fire_document(last) if last is not None else None}
            for job, last in page
        ]
        answer(response, {"jobs": documents, "next": next_link(request, following)})

    async def on_post(self, request: EngineRequest, response: Response) -> None:
        job = await self._desk.add(await read_json(request), user=user_of(request))
        response.set_header("Location", f"/v1/jobs/{job.id}")
        answer_version(response, job_document(job), status=falcon.HTTP_201)


class JobResource:
    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk

    async def on_get(self, request: Request, response: Response, job: str) -> None:
        with Fields(request.params) as fields:
            count = fields.take("times", integer(0, MOST_TIMES), default=5)
        found = await self._desk.job(job)
        times = [] if found.paused else await self._desk.coming(found, count)
        last = await self._desk.fires(found.id, limit=1)
        shown = {**job_document(found), "times": times, "last": fire_document(last[0]) if last else None}
        answer_version(response, shown)

    async def on_patch(self, request: EngineRequest, response: Response, job: str) -> None:
        with _if_matching():
            changed = await self._desk.change(job, await read_json(request), version=wanted_version(request))
        answer_version(response, job_document(changed))

    async def on_delete(self, request: EngineRequest, response: Response, job: str) -> None:
        await self._desk.remove(job)
        response.status = falcon.HTTP_204


class JobAction:
    """`pause`, `resume`, and `run`, which runs it now."""

    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk

    async def on_post(self, request: EngineRequest, response: Response, job: str, action: str) -> None:
        with Fields(request.params):
            pass
        if action == "run":
            found, fire = await self._desk.run_now(job)
            response.set_header("Location", f"/v1/jobs/{found.id}/runs")
            answer(response, {"job": found.name, **fire_document(fire)}, status=falcon.HTTP_202)
        elif action in ("pause", "resume"):
            change = self._desk.pause if action == "pause" else self._desk.resume
            answer_version(response, job_document(await change(job)))
        else:
            raise NotFound(f"nothing is called {action[:40]} here; a job can be paused, resumed and run")


class JobRuns:
    """The history, the latest first; `marker` is the planned time of the last one seen."""

    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk

    async def on_get(self, request: Request, response: Response, job: str) -> None:
        with Fields(request.params) as fields:
            limit, _marker = take_paging(fields)
            before = fields.take("marker", as_moment, default=None)
            states = fields.take("state", several(_state), default=())
        found = await self._desk.fires(job, limit=limit + 1, before=before, states=states)
        page = found[:limit]
        following = _mark(page[-1].fire_at) if len(found) > limit else None
        documents = [fire_document(fire) for fire in page]
        answer(response, {"runs": documents, "next": next_link(request, following)})


class JobGroupAction:
    """`pause` and `resume` of all jobs that are in a group now."""

    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk

    async def on_post(self, request: EngineRequest, response: Response, group: str, action: str) -> None:
        with Fields(request.params):
            pass
        if action not in ("pause", "resume"):
            raise NotFound(f"nothing is called {action[:40]} here; a group can be paused and resumed")
        jobs = await self._desk.pause_group(group, paused=action == "pause")
        answer(response, {"jobs": [job_document(job) for job in jobs]})


class JobPreview:
    """When a job of this form would run: the body is a job's, and nothing is kept."""

    heeds_query = True

    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk

    async def on_post(self, request: EngineRequest, response: Response) -> None:
        with Fields(request.params) as fields:
            count = fields.take("times", integer(1, MOST_TIMES), default=5)
        answer(response, {"times": await self._desk.preview(await read_json(request), count)})


def _state(value: Any) -> FireState:
    try:
        return FireState(value)
    except ValueError:
        raise ValueError(f"must be one of {', '.join(FireState)}") from None


def _mark(moment: datetime) -> str:
    return moment.isoformat()
