"""Sends one call to one engine and brings its reply, over connections that are kept alive.

It sends a call once, never again by itself. What could not have been sent is `Unavailable`; what may
have been, and got no reply, is `OutcomeUnknown`. Cancelling closes the connection, which cancels the
task over there.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import aiohttp
import msgspec

from engine.coordination.membership import Member
from engine.errors import InvalidInput, OutcomeUnknown, Unavailable
from engine.execution.options import ExecutionSettings
from engine.execution.tls import client_context
from engine.execution.wire import (
    PATH,
    PATH_FOR_MANY,
    Batch,
    Reply,
    Request,
    decode_replies,
    decode_reply,
    encode,
)

CONNECT_SECONDS = 2.0
KEEP_SECONDS = 30.0
GRACE_SECONDS = 0.5
"""How much longer than the task's own time the reply may take, which then says what became of it."""


class CallClient:
    """An async context manager, in the loop of its owner."""

    def __init__(self, settings: ExecutionSettings) -> None:
        self._settings = settings
        self._tls = client_context(settings.files) if settings.files else None
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_SECONDS, ssl=self._tls or True)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def ask(self, member: Member, request: Request) -> Reply:
        """Raises `Unavailable`, `OutcomeUnknown`, `InvalidInput` (too large to be sent)."""
        answer = await self._post(member, PATH, request, encode(request))
        try:
            return decode_reply(answer)
        except msgspec.MsgspecError as error:
            raise OutcomeUnknown(f"engine {member.engine} answered what is no reply: {error}") from error

    async def ask_all(self, member: Member, batch: Batch) -> list[Reply]:
        """A reply for each key. Raises as `ask` does."""
        answer = await self._post(member, PATH_FOR_MANY, batch.request, encode(batch))
        try:
            replies = decode_replies(answer)
        except msgspec.MsgspecError as error:
            raise OutcomeUnknown(f"engine {member.engine} answered no replies: {error}") from error
        if len(replies) != len(batch.keys):
            raise OutcomeUnknown(f"engine {member.engine} answered {len(replies)} of {len(batch.keys)} calls")
        return replies

    async def _post(self, member: Member, path: str, request: Request, body: bytes) -> bytes:
        name = member.engine
        if not member.calls:
            raise Unavailable(f"engine {name} takes no calls")
        if member.calls.startswith("https") is not (self._tls is not None):
            raise Unavailable(
                f"engine {name} is called at {member.calls}, and [execution] is configured otherwise here:"
                " certificate, key and ca must be set on all engines or on none"
            )
        if len(body) > self._settings.most_bytes:
            raise InvalidInput(
                f"the arguments of task {request.task} have {len(body)} bytes,"
                f" at most {self._settings.most_bytes} are sent ([execution] most_bytes)"
            )
        timeout = aiohttp.ClientTimeout(total=request.seconds + GRACE_SECONDS, sock_connect=CONNECT_SECONDS)
        try:
            async with self._session.post(
                member.calls + path,
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=timeout,
                server_hostname=name if self._tls else None,
                allow_redirects=False,
            ) as response:
                answer = await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unavailable(f"engine {name} cannot be reached at {member.calls}: {error}") from error
        except TimeoutError as error:
            raise OutcomeUnknown(f"engine {name} did not answer within {request.seconds:.3g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            why = str(error) or type(error).__name__
            raise OutcomeUnknown(f"the connection to engine {name} broke during the call: {why}") from error
        if response.status != 200:
            said = answer[:200].decode("utf-8", "replace")
            raise Unavailable(f"engine {name} refused the call ({response.status}): {said}")
        return answer
