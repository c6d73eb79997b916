"""`/v1/commands`: what was asked for and how far it is; and how other resources ask for something.

`submit_action` is the one way from a request to a command: 202 with a link, or, where the client waits,
200 with the outcome. A lock that is taken answers 409 with who has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import falcon
from falcon.asgi import Request, Response

from engine.api.fields import Fields, several, text
from engine.api.http import EngineRequest, answer, next_link, read_json, take_limit
from engine.arguments import choice, mapping
from engine.commands.records import CommandRecord, CommandState, History, StepRecord
from engine.commands.submission import Submission
from engine.errors import InvalidInput

LONGEST_WAIT_SECONDS = 30.0
MASK = "********"

_SECRET = frozenset({"password", "secret", "token", "key"})

_DURATION = re.compile(r"(\d{1,4}(?:\.\d{1,3})?)s?")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def without_secrets(value: Any) -> Any:
    """`value` with every field that is named like a secret masked, however deep."""
    if isinstance(value, Mapping):
        return {
            name: MASK if name in _SECRET and inner is not None else without_secrets(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(inner) for inner in value]
    return value


def command_document(command: CommandRecord) -> dict[str, Any]:
    return {
        "id": command.id,
        "type": command.type,
        "state": command.state,
        "entity": {"kind": command.entity_kind, "id": command.entity_id},
        "arguments": without_secrets(command.arguments),
        "percent": command.percent,
        "message": command.message,
        "error": command.error,
        "user": command.user,
        "engine": command.engine,
        "shard": command.shard,
        "root": command.root_id,
        "parent": command.parent_id,
        "locks": command.locks,
        "cancel_requested": command.cancel_requested,
        "created_at": command.created_at,
        "started_at": command.started_at,
        "ended_at": command.ended_at,
    }


def step_document(step: StepRecord) -> dict[str, Any]:
    return {
        "number": step.number,
        "name": step.name,
        "attempt": step.attempt,
        "state": step.state,
        "host_id": step.host_id,
        "operation_id": step.operation_id,
        "children": step.children,
        "result": without_secrets(step.result),
        "error": step.error,
        "intended_at": step.intended_at,
        "ended_at": step.ended_at,
    }


def history_document(history: History) -> dict[str, Any]:
    steps = [step_document(step) for step in history.steps]
    return {**command_document(history.command), "steps": steps}


async def submit_action(
    request: Request,
    response: Response,
    submission: Submission,
    type: str,
    arguments: Mapping[str, Any],
) -> None:
    """Submit a command and answer the request.

    Heeds the query's `wait` (up to 30s for the outcome) and `lock_wait` (up to an hour for locks that
    others have), and the header `Idempotency-Key`. `arguments` are checked by the command itself.
    """
    with Fields(request.params) as fields:
        wait = fields.take("wait", duration(LONGEST_WAIT_SECONDS), default=None)
        lock_wait = fields.take("lock_wait", duration(3600.0), default=None)
    submitted = await submission.submit(
        type, arguments, user=user_of(request), key=idempotency_key(request), lock_wait_seconds=lock_wait
    )
    history = History(submitted.command)
    if wait is not None or submitted.again:
        history = await submission.outcome(submitted.command.id, wait_seconds=wait or 0.0)
    response.set_header("Location", f"/v1/commands/{submitted.command.id}")
    finished = history.command.ended and wait is not None
    answer(response, history_document(history), status=falcon.HTTP_200 if finished else falcon.HTTP_202)


def user_of(request: Request) -> str:
    """Who asks; empty until requests are authenticated."""
    return ""


def duration(most: float) -> Any:
    """Seconds, as `30`, `30s` or `0.5s`."""

    def check(value: Any) -> float:
        found = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if found is None or float(found[1]) > most:
            raise ValueError(f"must be a number of seconds up to {most:g}, like 30s")
        return float(found[1])

    return check


def idempotency_key(request: Request) -> str | None:
    """The header; None where there is none. Raises `InvalidInput`."""
    key = request.get_header("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        what = "must be 1 to 255 printable characters"
        raise InvalidInput(f"Idempotency-Key {what}", fields={"Idempotency-Key": what})
    return key


class Commands:
    heeds_query = True

    def __init__(self, submission: Submission) -> None:
        self._submission = submission
        self._store = submission.store

    async def on_post(self, request: EngineRequest, response: Response) -> None:
        """Any command that is installed, by its type: for those that no other resource offers."""
        types = self._submission.catalogue.types
        with Fields(await read_json(request)) as fields:
            type = fields.take("type", choice(*sorted(types)))
            arguments = fields.take("arguments", mapping, default={})
        await submit_action(request, response, self._submission, type, arguments)

    async def on_get(self, request: Request, response: Response) -> None:
        with Fields(request.params) as fields:
            limit = take_limit(fields)
            after = fields.take("marker", _place, default=None)
            sort = fields.take("sort", choice("created_at", "-created_at"), default="-created_at")
            states = fields.take("state", several(_state), default=())
            types = fields.take("type", several(text), default=())
            entity = fields.take("entity", text, default=None)
            parent = fields.take("parent", text, default=None)
        found = await self._store.page(
            limit=limit + 1,
            after=after,
            states=states,
            types=types,
            entity=entity,
            parent=parent,
            oldest_first=not sort.startswith("-"),
        )
        page = found[:limit]
        following = _mark(page[-1]) if len(found) > limit else None
        documents = [command_document(command) for command in page]
        answer(response, {"commands": documents, "next": next_link(request, following)})


class CommandResource:
    def __init__(self, submission: Submission) -> None:
        self._submission = submission

    async def on_get(self, request: Request, response: Response, command: str) -> None:
        with Fields(request.params) as fields:
            wait = fields.take("wait", duration(LONGEST_WAIT_SECONDS), default=0.0)
        answer(response, history_document(await self._submission.outcome(command, wait_seconds=wait)))


class Cancellation:
    def __init__(self, submission: Submission) -> None:
        self._submission = submission

    async def on_post(self, request: Request, response: Response, command: str) -> None:
        with Fields(request.params):
            pass
        cancelled = await self._submission.cancel(command, user=user_of(request))
        answer(response, command_document(cancelled), status=falcon.HTTP_202)


class Resolution:
    def __init__(self, submission: Submission) -> None:
        self._submission = submission

    async def on_post(self, request: EngineRequest, response: Response, command: str) -> None:
        with Fields(await read_json(request)) as fields:
            outcome = fields.take("outcome", text)
        resolved = await self._submission.resolve(command, outcome, user=user_of(request))
        answer(response, command_document(resolved), status=falcon.HTTP_202)


def _state(value: Any) -> CommandState:
    try:
        return CommandState(value)
    except ValueError:
        raise ValueError(f"must be one of {', '.join(CommandState)}") from None


def _mark(command: CommandRecord) -> str:
    return f"{command.created_at.astimezone(UTC).isoformat()}~{command.id}"


def _place(value: Any) -> tuple[datetime, str]:
    at, separator, id = text(value).partition("~")
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        moment = None
    if not separator or moment is None or moment.tzinfo is None:
        raise ValueError("must be the marker of a page before")
    return moment, id
