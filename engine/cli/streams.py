"""Following events: server-sent events read from the API, over any number of connections.

`follow` yields every event once. It remembers the last id, also of messages without data, and goes on
from there when the connection is lost or the API stops, with any API process that answers, until the
user has had enough: whoever follows has had a cursor from the API already, so it was there.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from engine.cli.client import Api
from engine.errors import Unavailable

LOG = logging.getLogger(__name__)

SILENCE_SECONDS = 45.0
"""A stream that has not even said that it is alive (it does each 15 s) is lost."""
PAUSES_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `id` is the last that was named up to here, `data` empty where it only names that."""

    id: str
    data: str


def parse(lines: Iterable[str]) -> Iterator[Message]:
    """Messages from the lines of a stream.

    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
    """
    last, named = "", False
    data: list[str] = []
    for line in lines:
        if not line:
            if data or named:
                yield Message(last, "\n".join(data))
            data, named = [], False
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "id":
            last, named = value, True
        elif field == "data":
            data.append(value)


def follow(
    api: Api,
    path: str,
    *,
    after: str,
    params: Mapping[str, Any] | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[dict[str, Any]]:
    """Documents for ever, each once, from the cursor `after` on."""
    failures = 0
    while True:
        try:
            with closing(api.stream(path, params, last_id=after, silence_seconds=SILENCE_SECONDS)) as lines:
                for message in parse(lines):
                    failures = 0
                    after = message.id or after
                    if message.data:
                        yield json.loads(message.data)
        except Unavailable as error:
            if failures == 0:
                LOG.warning("no events just now, it will go on where it was: %s", error)
        pause(PAUSES_SECONDS[min(failures, len(PAUSES_SECONDS) - 1)])
        failures += 1
