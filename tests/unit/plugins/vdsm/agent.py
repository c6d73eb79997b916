"""A scripted agent on a real socket: answers as told and keeps every byte and frame that it got.

`agent.answer` maps a request (JSON) to the bytes to send back; the default answers like a host that
has nothing to report. It knows STOMP from the codec alone, so a test can bend any of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from engine.plugin import AuthorityLost, EngineId, HostId, HostTarget
from plugins.drivers.vdsm.stomp import Decoder, Frame, encode

CAPABILITIES = {
    "uuid": "4c4c4544-0000-0001",
    "cpuCores": "4",
    "memSize": "16000",
    "clusterLevels": ["4.7", "4.8"],
    "software_version": "4.50",
}
STATISTICS = {
    "vmCount": 2,
    "vmActive": "1",
    "vmMigrating": 0,
    "memFree": 1024,
    "cpuLoad": "0.07",
    "cpuIdle": "75.50",
}
VMS = [
    {"vmId": "a", "status": "Up"},
    {"vmId": "b", "status": "Down", "exitCode": 1, "exitReason": "6", "exitMessage": "bye"},
]
RESULTS: Mapping[str, Any] = {
    "Host.getCapabilities": CAPABILITIES,
    "Host.getStats": STATISTICS,
    "Host.getAllVmStats": VMS,
}


@dataclass
class TestAuthority:
    """Authority by decree."""

    __test__ = False
    seconds: float = 60.0
    checks: int = 0

    def check(self) -> None:
        self.checks += 1
        if self.seconds <= 0:
            raise AuthorityLost("by decree")

    def remaining_seconds(self) -> float:
        return self.seconds


def result(request: Mapping[str, Any], value: object) -> bytes:
    return message({"jsonrpc": "2.0", "id": request["id"], "result": value})


def refusal(request: Mapping[str, Any], code: object, text: object) -> bytes:
    return message({"jsonrpc": "2.0", "id": request["id"], "error": {"code": code, "message": text}})


def message(body: object) -> bytes:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return encode(Frame("MESSAGE", {"destination": "q", "subscription": "1"}, raw))


def event(method: object, params: object) -> bytes:
    return message({"jsonrpc": "2.0", "method": method, "params": params})


def answer_all(request: Mapping[str, Any]) -> bytes:
    return result(request, RESULTS.get(request["method"], True))


def connected(frame: Frame) -> bytes:
    sends, _, wants = frame.headers["heart-beat"].partition(",")
    return encode(Frame("CONNECTED", {"version": "1.2", "heart-beat": f"{wants},{sends}"}))


@dataclass
class Agent:
    """One listening agent; `changed` wakes whoever waits in `until`."""

    answer: Callable[[Mapping[str, Any]], bytes] = answer_all
    greet: Callable[[Frame], bytes] = connected
    reads: bool = True
    received: bytes = b""
    heartbeats: int = 0
    frames: list[Frame] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    peers: list[asyncio.StreamWriter] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    port: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def target(self, *, epoch: int = 7, address: str = "127.0.0.1") -> HostTarget:
        return HostTarget(HostId("host-1"), address, self.port, EngineId("engine-1"), epoch)

    async def until(self, happened: Callable[[], object], *, seconds: float = 10.0) -> None:
        async with asyncio.timeout(seconds), self.changed:
            await self.changed.wait_for(happened)

    async def say(self, data: bytes) -> None:
        self.peers[-1].write(data)
        await self.peers[-1].drain()

    def reset(self) -> None:
        for peer in self.peers:
            peer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            peer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peers.append(writer)
        decoder = Decoder()
        try:
            while data := await reader.read(65536):
                self.received += data
                for frame in decoder.feed(data):
                    self._take(frame, writer)
                self.heartbeats = decoder.heartbeats
                await self._notify()
            self.ends.append("eof")
        except OSError as error:
            self.ends.append(type(error).__name__)
        await self._notify()

    def _take(self, frame: Frame, writer: asyncio.StreamWriter) -> None:
        self.frames.append(frame)
        if frame.command == "CONNECT":
            writer.write(self.greet(frame))
        elif frame.command == "SEND":
            request = orjson.loads(frame.body)
            self.requests.append(request)
            writer.write(self.answer(request))

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()


@contextlib.asynccontextmanager
async def running_agent(
    *,
    greet: Callable[[Frame], bytes] = connected,
    answer: Callable[[Mapping[str, Any]], bytes] = answer_all,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Agent]:
    agent = Agent(greet=greet, answer=answer)
    server = await asyncio.start_server(agent.serve, "127.0.0.1", 0, ssl=tls)
    agent.port = server.sockets[0].getsockname()[1]
    try:
        yield agent
    finally:
        server.close()
        for peer in agent.peers:
            peer.transport.abort()
        await server.wait_closed()
