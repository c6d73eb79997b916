"""How one simulated host calls another: a short-lived client of the agent's own protocol.

Used by migrations only. Everything that can go wrong is `PeerFailed`; of these `PeerRefused` alone says
that what was asked for was not done.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import uuid
from collections.abc import AsyncIterator
from typing import Any

import orjson

from plugins.drivers.vdsm.stomp import Decoder, Frame, ProtocolError, encode

_DEADLINE_SECONDS = 10.0
_READ_BYTES = 65_536


class PeerFailed(Exception):
    """The other host did not do what it was asked for, or could not be reached."""


class PeerRefused(PeerFailed):
    """The other host said no."""


@contextlib.asynccontextmanager
async def open_peer(address: str, port: int, *, tls: ssl.SSLContext | None) -> AsyncIterator[Peer]:
    """Connect to the agent on `port`. Raises `PeerFailed`."""
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS):
            reader, writer = await asyncio.open_connection(address, port, ssl=tls)
    except (OSError, TimeoutError, OverflowError) as error:
        raise PeerFailed(f"{address}:{port}: {error}") from error
    peer = Peer(reader, writer)
    try:
        await peer.greet()
        yield peer
    finally:
        writer.close()


class Peer:
    """One connection, one call at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = Decoder()
        self._frames: list[Frame] = []
        self._queue = str(uuid.uuid4())

    async def greet(self) -> None:
        self._writer.write(encode(Frame("CONNECT", {"accept-version": "1.2", "heart-beat": "0,0"})))
        self._writer.write(encode(Frame("SUBSCRIBE", {"destination": self._queue, "id": "1", "ack": "auto"})))
        frame = await self._next()
        if frame.command != "CONNECTED":
            raise PeerFailed(f"{frame.command} instead of CONNECTED")

    async def call(self, method: str, params: dict[str, Any]) -> Any:
        """The result. Raises `PeerFailed`."""
        request_id = self.tell(method, params)
        while True:
            frame = await self._next()
            if frame.command != "MESSAGE":
                raise PeerFailed(f"{method}: {frame.body!r}")
            answer = orjson.loads(frame.body)
            if answer.get("id") == request_id:
                break
        if "error" in answer:
            raise PeerRefused(f"{method}: {answer['error']}")
        return answer["result"]

    def tell(self, method: str, params: dict[str, Any]) -> str:
        """Send without waiting for the answer; return the request's id."""
        request_id = str(uuid.uuid4())
        body = {"jsonrpc": "2.0", "method": method, "params": params, "id": request_id}
        headers = {"destination": "jms.topic.vdsm_requests", "reply-to": self._queue}
        self._writer.write(encode(Frame("SEND", headers, orjson.dumps(body))))
        return request_id

    async def broken_within(self, seconds: float) -> None:
        """Return after `seconds`; raise `PeerFailed` as soon as the connection breaks before."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    self._frames += await self._read()

    async def _next(self) -> Frame:
        try:
            async with asyncio.timeout(_DEADLINE_SECONDS):
                while not self._frames:
                    self._frames += await self._read()
        except TimeoutError as error:
            raise PeerFailed("no answer") from error
        return self._frames.pop(0)

    async def _read(self) -> list[Frame]:
        try:
            data = await self._reader.read(_READ_BYTES)
            if not data:
                raise PeerFailed("the connection was closed")
            return self._decoder.feed(data)
        except (OSError, ProtocolError) as error:
            raise PeerFailed(str(error)) from error
