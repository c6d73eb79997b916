"""A TCP proxy that does to a stream what bad networks do, at an exact byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal

Fault = Literal["none", "truncate", "reset", "stall", "flip", "insert", "drop"]


@dataclass(frozen=True, slots=True)
class Damage:
    """What happens to the bytes from the host at `at`; all are handed on in pieces of `piece` bytes.

    `truncate` ends the stream in order, `reset` with RST, `stall` for ever; `flip` inverts one byte,
    `insert` puts garbage before it, `drop` leaves it out.
    """

    fault: Fault = "none"
    at: int = 0
    piece: int = 65536

    def apply(self, passed: int, data: bytes) -> tuple[bytes, bool]:
        """What to hand on of `data`, the first of which is byte `passed`, and whether it ends there."""
        here = self.at - passed
        if self.fault == "none" or not 0 <= here < len(data):
            return data, False
        if self.fault == "flip":
            return data[:here] + bytes([data[here] ^ 0xFF]) + data[here + 1 :], False
        if self.fault == "insert":
            return data[:here] + b"\x00\xfe\n:" + data[here:], False
        if self.fault == "drop":
            return data[:here] + data[here + 1 :], False
        return data[:here], True


@dataclass
class LossyProxy:
    """Listens on `port`, forwards to `target`, counts what came `from_host`."""

    target: int
    damage: Damage
    port: int = 0
    from_host: int = 0
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host_reader, host_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers += [writer, host_writer]
        try:
            with contextlib.suppress(OSError):
                async with asyncio.TaskGroup() as both:
                    both.create_task(_copy(reader, host_writer), name="to host")
                    both.create_task(self._damaged(host_reader, writer), name="from host")
        except* OSError:
            pass
        finally:
            for end in (writer, host_writer):
                end.transport.abort()

    async def _damaged(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        damage = self.damage
        while data := await reader.read(65536):
            for start in range(0, len(data), damage.piece):
                piece = data[start : start + damage.piece]
                kept, ends = damage.apply(self.from_host, piece)
                self.from_host += len(piece)
                writer.write(kept)
                await writer.drain()
                await asyncio.sleep(0)  # the next piece arrives in a turn of its own
                if ends:
                    await _end(writer, damage.fault)
                    return

    def stop(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def _end(writer: asyncio.StreamWriter, fault: Fault) -> None:
    if fault == "stall":
        await asyncio.Event().wait()
    if fault == "reset":
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.write_eof()


@contextlib.asynccontextmanager
async def lossy_proxy(target: int, damage: Damage) -> AsyncIterator[LossyProxy]:
    proxy = LossyProxy(target, damage)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.stop()
        await server.wait_closed()
