"""A client that hides nothing: bytes out, bytes in. What the tests expect is written out in full."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

DEADLINE_SECONDS = 10.0
CONNECT = b"CONNECT\naccept-version:1.2\nheart-beat:0,0\n\n\0"
CONNECTED = b"CONNECTED\nversion:1.2\nheart-beat:0,0\n\n\0"
REQUESTS = "jms.topic.vdsm_requests"


def subscribe(destination: str, subscription: str = "1") -> bytes:
    return f"SUBSCRIBE\ndestination:{destination}\nid:{subscription}\nack:auto\n\n\0".encode()


def send(
    body: bytes | object, *, destination: str = REQUESTS, reply_to: str | None = "q", **headers: str
) -> bytes:
    """A SEND; a body that is not bytes is written as JSON. Underscores in header names become hyphens."""
    lines = [f"destination:{destination}"]
    if reply_to is not None:
        lines.append(f"reply-to:{reply_to}")
    lines += [f"{name.replace('_', '-')}:{value}" for name, value in headers.items()]
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return "\n".join(["SEND", *lines, f"content-length:{len(data)}", "\n"]).encode() + data + b"\0"


def request(method: str, params: object = None, request_id: object = "r1") -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": {} if params is None else params, "id": request_id}


async def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds. Only for what announces itself to nobody."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


class Wire:
    """One TCP connection to a host; entered, it is connected (not greeted)."""

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.port = port
        self.tls = tls
        self._rest = b""

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(DEADLINE_SECONDS):
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.transport.abort()

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def frame(self) -> bytes:
        """Everything up to and with the next NUL."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.reader.readuntil(b"\0")

    async def message(self) -> Any:
        """The JSON body of the next frame, which must be a MESSAGE."""
        head, _, body = (await self.frame()).partition(b"\n\n")
        assert head.startswith(b"MESSAGE\n"), head
        return json.loads(body[:-1])

    async def reset(self) -> bool:
        """True if the peer ends the connection by RST, False if by FIN; what came before is dropped."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionResetError:
                return True
        return False

    async def greet(self, queue: str = "q") -> Self:
        """CONNECT, and subscribe to a queue of our own."""
        self.write(CONNECT + subscribe(queue, "mine"))
        assert await self.frame() == CONNECTED
        return self

    async def call(self, method: str, params: object = None, **headers: str) -> Any:
        """The whole answer to one request of a greeted connection; other messages before it are an error."""
        self.write(send(request(method, params, "call"), **headers))
        answer = await self.message()
        assert answer["id"] == "call", answer
        return answer

    async def result(self, method: str, params: object = None) -> Any:
        answer = await self.call(method, params)
        assert "result" in answer, answer
        return answer["result"]
