"""A request and its answer as this API knows them: ids, bodies in and out, nothing about hosts.

Every request has an id, the client's own `X-Request-Id` where it is a sane one; it is answered in
the same header and stands in every error and log line.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

import falcon
import orjson
from falcon.asgi import Request, Response

from engine.api.fields import Fields, integer, text
from engine.errors import InvalidInput

T = TypeVar("T")

BODY_LIMIT_BYTES = 64 * 1024
DEFAULT_PAGE = 100
MAX_PAGE = 1000

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class EngineRequest(Request):
    """A request that knows its id and when it began (`time.perf_counter`)."""

    __slots__ = ("_request_id", "started")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.started = time.perf_counter()
        self._request_id: str | None = None

    @property
    def request_id(self) -> str:
        if self._request_id is None:
            given = self.get_header("X-Request-Id")
            self._request_id = given if given and _REQUEST_ID.fullmatch(given) else os.urandom(16).hex()
        return self._request_id


def answer(response: Response, document: object, *, status: str = falcon.HTTP_200) -> None:
    """Send `document` as JSON."""
    response.status = status
    response.data = to_json(document)


def to_json(document: object) -> bytes:
    """JSON on one line; datetimes as ISO 8601 in UTC."""
    return orjson.dumps(document, option=orjson.OPT_UTC_Z)


async def read_json(request: Request) -> dict[str, Any]:
    """The request's body, a JSON object of at most `BODY_LIMIT_BYTES`."""
    media_type = (request.content_type or "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise falcon.HTTPUnsupportedMediaType(description="the body must be application/json")
    body = await _read_body(request)
    if not body:
        raise falcon.HTTPBadRequest(title="Malformed JSON", description="the body is empty")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise falcon.HTTPBadRequest(
            title="Malformed JSON", description=f"the body is not JSON: {error}"
        ) from error
    if not isinstance(document, dict):
        raise InvalidInput("the body must be a JSON object")
    return document


async def read_json_if_any(request: Request) -> dict[str, Any]:
    """The same, for what needs none: without a body it is empty."""
    sent = request.content_length or request.get_header("Transfer-Encoding") is not None
    return await read_json(request) if sent else {}


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    if (request.content_length or 0) <= BODY_LIMIT_BYTES:
        while len(body) <= BODY_LIMIT_BYTES and (chunk := await request.stream.read(BODY_LIMIT_BYTES + 1)):
            body += chunk
        if len(body) <= BODY_LIMIT_BYTES:
            return bytes(body)
    raise falcon.HTTPContentTooLarge(description=f"the body is larger than {BODY_LIMIT_BYTES} bytes")


def take_limit(fields: Fields) -> int:
    """How many of a list."""
    return fields.take("limit", integer(1, MAX_PAGE), default=DEFAULT_PAGE)


def take_paging(fields: Fields) -> tuple[int, str | None]:
    """`limit` and `marker` of a list."""
    limit = take_limit(fields)
    return limit, fields.take("marker", text, default=None)


def page_of(
    items: Sequence[T], key: Callable[[T], str], *, limit: int, marker: str | None
) -> tuple[Sequence[T], str | None]:
    """Up to `limit` items after the one whose key is `marker`, and where to go on.

    `items` are in the order of their keys, so a marker that has gone away meanwhile still marks its place.
    """
    rest = items if marker is None else [item for item in items if key(item) > marker]
    page = rest[:limit]
    return page, key(page[-1]) if len(rest) > limit else None


def next_link(request: Request, marker: str | None) -> str | None:
    """The relative link to the page after this one, the whole query with it."""
    if marker is None:
        return None
    query: Mapping[str, Any] = {**request.params, "marker": marker}
    return f"{request.path}?{urlencode(query, doseq=True)}"
