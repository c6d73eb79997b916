"""What went wrong, as HTTP: one table from the engine's errors to statuses, one form for all.

Every error is problem+json (RFC 9457) with the request's id. `code` is for programs; `fields` names
every bad field. Of an unforeseen error the client learns the id only; the log has the traceback.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import falcon
import orjson
from falcon.asgi import App, Response

from engine.api.http import EngineRequest
from engine.api.locks import lock_document
from engine.db.errors import Duplicate
from engine.errors import (
    AuthorityLost,
    Conflict,
    EngineError,
    InvalidInput,
    NotFound,
    TaskFailed,
    Unavailable,
)
from engine.locks.holds import LockRefused

LOG = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"
RETRY_SECONDS = "2"
_LONGEST_DETAIL = 1000

_STATUSES: tuple[tuple[type[EngineError], HTTPStatus, str], ...] = (
    (InvalidInput, HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_input"),
    (NotFound, HTTPStatus.NOT_FOUND, "not_found"),
    (Conflict, HTTPStatus.CONFLICT, "conflict"),
    (Unavailable, HTTPStatus.SERVICE_UNAVAILABLE, "unavailable"),
    (AuthorityLost, HTTPStatus.SERVICE_UNAVAILABLE, "unavailable"),  # the session of a moment ago is over
    (TaskFailed, HTTPStatus.BAD_GATEWAY, "task_failed"),
)


def add_error_handlers(app: App[EngineRequest, Response]) -> None:
    """Answer every error that a responder raises."""
    app.add_error_handler(Exception, _on_unforeseen)
    app.add_error_handler(falcon.HTTPError, _on_http_error)
    app.add_error_handler(EngineError, _on_engine_error)


async def _on_engine_error(
    request: EngineRequest, response: Response, error: EngineError, params: Mapping[str, Any]
) -> None:
    found = next((entry for entry in _STATUSES if isinstance(error, entry[0])), None)
    if found is None:
        await _on_unforeseen(request, response, error, params)
        return
    _kind, status, code = found
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        LOG.warning("request=%s unavailable: %s", request.request_id, error)
        response.set_header("Retry-After", RETRY_SECONDS)
    _problem(
        request, response, status, code=code, detail=str(error), fields=_fields(error), more=_more(error)
    )


async def _on_http_error(
    request: EngineRequest, response: Response, error: falcon.HTTPError, params: Mapping[str, Any]
) -> None:
    status = HTTPStatus(error.status_code)
    response.set_headers(error.headers or {})
    detail = error.description
    if status == HTTPStatus.NOT_FOUND:
        detail = f"there is nothing at {request.path[:200]}; /v1 lists what there is"
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.method} is not possible here; allowed: {response.get_header('Allow')}"
    _problem(request, response, status, code=status.name.lower(), detail=detail)


async def _on_unforeseen(
    request: EngineRequest, response: Response, error: Exception, params: Mapping[str, Any]
) -> None:
    LOG.error("request=%s %s %s failed", request.request_id, request.method, request.path, exc_info=error)
    detail = f"the API failed; its log tells more under request {request.request_id}"
    _problem(request, response, HTTPStatus.INTERNAL_SERVER_ERROR, code="internal_error", detail=detail)


def _fields(error: EngineError) -> dict[str, str]:
    if isinstance(error, InvalidInput):
        return error.fields
    if isinstance(error, Duplicate):
        return dict.fromkeys(
            error.fields, "is taken by another host" if error.table == "host" else "is taken"
        )
    return {}


def _more(error: EngineError) -> dict[str, Any]:
    if isinstance(error, LockRefused):
        return {"key": error.key, "mode": error.mode, "holder": lock_document(error.holder)}
    return {}


def _problem(
    request: EngineRequest,
    response: Response,
    status: HTTPStatus,
    *,
    code: str,
    detail: str | None,
    fields: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "detail": (detail or status.phrase)[:_LONGEST_DETAIL],
        "code": code,
        "request_id": request.request_id,
        **(more or {}),
    }
    if fields:
        document["fields"] = dict(fields)
    response.status = status.value
    response.content_type = PROBLEM_JSON
    response.text = None
    response.data = orjson.dumps(document)
