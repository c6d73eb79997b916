"""What entities that people change share: versions as ETags, and checked changes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import falcon
from falcon.asgi import Request, Response

from engine.api.fields import Fields, integer
from engine.api.http import answer
from engine.errors import InvalidInput
from engine.hosts.records import VersionConflict


@contextlib.contextmanager
def if_matching() -> Iterator[None]:
    """A version that is not the present one answers 412."""
    try:
        yield
    except VersionConflict as error:
        raise falcon.HTTPPreconditionFailed(description=str(error)) from error


def answer_version(response: Response, document: Mapping[str, Any], *, status: str = falcon.HTTP_200) -> None:
    """Send an entity, its version as the ETag."""
    response.set_header("ETag", f'"{document["version"]}"')
    answer(response, document, status=status)


def wanted_version(request: Request) -> int | None:
    """The version in `If-Match`; None where any will do."""
    given = request.get_header("If-Match")
    if given is None or given.strip() == "*":
        return None
    if "," in given:
        raise falcon.HTTPPreconditionFailed(description="If-Match takes one version here, not several")
    spelled = given.strip().removeprefix("W/").strip('"')
    if not spelled.isdigit() or len(spelled) > 18:
        raise falcon.HTTPPreconditionFailed(description=f"no version is called {given[:40]}")
    return int(spelled)


def taken(
    body: Mapping[str, Any],
    checks: Mapping[str, Callable[[Any], Any]],
    *,
    may_be_null: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The fields that the body has, checked; null empties those that may be empty."""
    empty = {name: None for name in may_be_null if name in body and body[name] is None}
    with Fields({name: value for name, value in body.items() if name not in empty}) as fields:
        given = {name: fields.take(name, check, default=None) for name, check in checks.items()}
        for name in checks.keys() - empty.keys() & body.keys():
            if body[name] is None:
                fields.refuse(name, "must not be null")
    changes = {name: value for name, value in given.items() if name in body and value is not None} | empty
    if not changes:
        wrong = f"nothing is to be changed; allowed: {', '.join(checks)}"
        raise InvalidInput(wrong)
    return changes


def line(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        raise ValueError("must be a string of at most 1000 characters")
    return value


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def percent(value: Any) -> int:
    return integer(1, 10_000)(value)
