"""A small client of the engine's API, for the commands.

It turns what can go wrong on the way into the engine's own errors, worded for a person: the API is
not there, it refused (problem+json, RFC 9457), or something else answered. httpx is imported with
the first request, so that `engine --help` does not wait for it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
from collections.abc import Generator, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from engine.cli.columns import local_time
from engine.cli.endpoint import Endpoint, find_endpoint
from engine.errors import Conflict, EngineError, InvalidInput, NotFound, Unavailable

if TYPE_CHECKING:
    import httpx

LOG = logging.getLogger(__name__)

PAGE_SIZE = 500
TIMEOUT_SECONDS = 30.0

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def add_api_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command that talks to the API."""
    group = parser.add_argument_group("API")
    group.add_argument("--api-url", metavar="URL", help="base URL of the API (see `engine --help`)")
    group.add_argument("--state-dir", metavar="DIR", help="state directory of `engine up`, to find its API")


def open_api(arguments: argparse.Namespace) -> Api:
    """The client for the options of `add_api_options`; enter it."""
    return Api(find_endpoint(api_url=arguments.api_url, state_dir=arguments.state_dir))


class Api:
    """One connection to the API. Raises `Unavailable`, `NotFound`, `Conflict`, `InvalidInput`."""

    def __init__(self, endpoint: Endpoint, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self.endpoint = endpoint
        self._timeout_seconds = timeout_seconds
        self._client: httpx.Client | None = None
        self.stale_since: str | None = None
        """Since when the API has not heard from ZooKeeper; what it says of engines and shards is that old."""

    def __enter__(self) -> Api:
        import httpx

        # A proxy from the environment cannot reach this machine's own loopback.
        local = urlsplit(self.endpoint.api_url).hostname in _LOOPBACK
        self._client = httpx.Client(
            timeout=self._timeout_seconds,
            trust_env=not local,
            headers={"Accept": "application/json, application/problem+json"},
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self._request("GET", self.endpoint.api_url + path, params=_given(params))

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._request("POST", self.endpoint.api_url + path, json=body)

    def patch(self, path: str, body: Mapping[str, Any], *, version: int | None = None) -> dict[str, Any]:
        """Change it; where a version is named, only while that is the present one (`Conflict`)."""
        headers = {} if version is None else {"If-Match": f'"{version}"'}
        return self._request("PATCH", self.endpoint.api_url + path, json=body, headers=headers)

    def delete(self, path: str) -> dict[str, Any]:
        return self._request("DELETE", self.endpoint.api_url + path)

    def pages(
        self, path: str, name: str, *, limit: int | None = None, params: Mapping[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the items of a list, up to `limit`, fetching page after page as they are used."""
        if limit is not None and limit <= 0:
            return
        left = limit
        size = PAGE_SIZE if limit is None else min(limit, PAGE_SIZE)
        url: str | None = self.endpoint.api_url + path
        query: dict[str, Any] | None = {"limit": size, **_given(params)}
        while url is not None:
            answer = self._request("GET", url, params=query)
            for item in answer[name]:
                yield item
                if left is not None:
                    left -= 1
                    if left == 0:
                        return
            following = answer.get("next")
            # The link may be relative, and it carries the whole query.
            url, query = (urljoin(url, following) if following else None), None

    def stream(
        self, path: str, params: Mapping[str, Any] | None, *, last_id: str, silence_seconds: float
    ) -> Generator[str]:
        """Yield the lines of a stream of events, until the API ends it or is silent for so long."""
        url = self.endpoint.api_url + path
        headers = {"Accept": "text/event-stream, application/problem+json;q=0.5", "Last-Event-ID": last_id}
        with (
            self._reached(url, silence_seconds),
            self._opened.stream(
                "GET", url, params=_given(params), headers=headers, timeout=silence_seconds
            ) as response,
        ):
            if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
                response.read()
                self._answer(response)
                raise Unavailable(f"GET {url} answered without a stream: is this the engine's API?")
            yield from response.iter_lines()

    def _request(self, method: str, url: str, **content: Any) -> dict[str, Any]:
        with self._reached(url, self._timeout_seconds):
            response = self._opened.request(method, url, **content)
        return self._answer(response)

    @property
    def _opened(self) -> httpx.Client:
        if self._client is None:
            raise RuntimeError("enter the client before using it")
        return self._client

    @contextlib.contextmanager
    def _reached(self, url: str, patience_seconds: float) -> Iterator[None]:
        """What can go wrong between here and the API, as the engine's errors."""
        import httpx

        try:
            yield
        except httpx.TimeoutException as error:
            raise Unavailable(
                f"the API at {self.endpoint.api_url} did not answer within {patience_seconds:g} s"
            ) from error
        except httpx.TransportError as error:
            raise Unavailable(self._absent(error)) from error
        except httpx.InvalidURL as error:
            raise InvalidInput(f"{self.endpoint.source}: {url!r} is no URL: {error}") from error

    def _absent(self, error: Exception) -> str:
        return (
            f"the API at {self.endpoint.api_url} ({self.endpoint.source}) cannot be reached: "
            f"{error or type(error).__name__}. "
            "Start a cluster with `engine up`, or name one with --api-url or ENGINE_API_URL."
        )

    def _answer(self, response: httpx.Response) -> dict[str, Any]:
        if response.status_code == 204:
            return {}
        try:
            body = json.loads(response.content)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise Unavailable(
                f"{response.request.method} {response.request.url} answered {response.status_code} without "
                "JSON: is this the engine's API?"
            )
        if response.is_success:
            self._note_staleness(body.pop("stale_since", None))
            return body
        raise refusal(response.status_code, body)

    def _note_staleness(self, since: str | None) -> None:
        if since is not None and self.stale_since is None:
            LOG.warning(
                "the API has lost ZooKeeper: engines and shards are shown as of %s", local_time(since)
            )
            self.stale_since = since


def refusal(status: int, problem: Mapping[str, Any]) -> EngineError:
    """The error for a problem+json document, worded as title, detail and each bad field."""
    title = str(problem.get("title") or f"HTTP {status}")
    detail = problem.get("detail")
    lines = [f"{title}: {detail}" if detail and detail != title else title]
    fields = _bad_fields(problem)
    lines += [f"  {name}: {what}" for name, what in fields.items() if what not in lines[0]]
    if status >= 500 and (request := problem.get("request_id") or problem.get("instance")):
        lines.append(f"  request: {request}")
    message = "\n".join(lines)
    match status:
        case 404:
            return NotFound(message)
        case 409 | 412:
            return Conflict(message)
        case 400 | 413 | 415 | 422:
            return InvalidInput(message, fields=fields)
        case 429 | 500 | 502 | 503 | 504:
            return Unavailable(message)
    return EngineError(message)


def _bad_fields(problem: Mapping[str, Any]) -> dict[str, str]:
    fields = problem.get("fields") or {}
    return {str(name): str(what) for name, what in fields.items()} if isinstance(fields, dict) else {}


def _given(params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (params or {}).items() if value is not None}
