"""Calls over a stream of JSON lines, in both directions at once.

`{"call": n, "do": name, "with": {...}}` is answered by `{"answer": n, "result": ...}` or
`{"answer": n, "error": text}`. The same link joins the processes of a simulation and its control
clients. When the stream ends every call under way fails with `LinkClosed`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

import orjson

LINE_LIMIT = 64 * 1024 * 1024
"""The counters of ten thousand hosts are one line."""

Handler = Callable[[str, Mapping[str, Any]], Awaitable[Any]]


class LinkClosed(Exception):
    """The other side is gone, or did not speak this protocol."""


class Refused(Exception):
    """The other side answered with an error."""


async def refuse_all(do: str, arguments: Mapping[str, Any]) -> Any:
    """The handler of a side that serves nothing."""
    raise Refused(f"{do} is not served here")


class Link:
    """An async context manager over an open stream. `handler` may raise `Refused`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, handler: Handler = refuse_all
    ) -> None:
        self.closed = asyncio.Event()
        self._reader = reader
        self._writer = writer
        self._handler = handler
        self._numbers = itertools.count(1)
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._listening = asyncio.create_task(self._listen(), name="simulator link")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [*self._serving, *filter(None, [self._listening])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._writer.close()

    async def call(self, do: str, /, **arguments: Any) -> Any:
        """The other side's result. Raises `Refused` or `LinkClosed`."""
        if self.closed.is_set():
            raise LinkClosed(f"{do}: the link is closed")
        number = next(self._numbers)
        answer = self._calls[number] = asyncio.get_running_loop().create_future()
        try:
            self._write({"call": number, "do": do, "with": arguments})
            return await answer
        finally:
            del self._calls[number]

    async def _listen(self) -> None:
        try:
            while line := await self._reader.readline():
                self._receive(orjson.loads(line))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # not our protocol, or a line beyond the limit: the stream has no meaning any more
        finally:
            self.closed.set()
            self._writer.close()
            for answer in self._calls.values():
                if not answer.done():
                    answer.set_exception(LinkClosed("the other side is gone"))

    def _receive(self, message: dict[str, Any]) -> None:
        if "call" in message:
            work = self._serve(message["call"], message["do"], message.get("with", {}))
            task = asyncio.create_task(work, name=f"simulator command {message['do']}")
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
            return
        answer = self._calls.get(message["answer"])
        if answer is None or answer.done():
            return
        if "error" in message:
            answer.set_exception(Refused(message["error"]))
        else:
            answer.set_result(message["result"])

    async def _serve(self, number: int, do: str, arguments: Mapping[str, Any]) -> None:
        try:
            answer = {"answer": number, "result": await self._handler(do, arguments)}
        except Refused as error:
            answer = {"answer": number, "error": str(error)}
        except Exception as error:
            answer = {"answer": number, "error": f"{do} failed: {error!r}"}
            self._write(answer)
            raise
        self._write(answer)

    def _write(self, message: dict[str, Any]) -> None:
        if not self._writer.is_closing():
            self._writer.write(
                orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
            )
