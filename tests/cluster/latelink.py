"""The network between engines and hosts: what is on its way may stay there, and arrive after its sender died.

Each host is reached through a port of its own here. `catch(verb)` stops a connection just before that
verb: from there on its bytes wait, whatever becomes of the sender, until `deliver`. Later connections
pass.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence


class LateLink:
    """All hosts of a cluster. `caught` is set when something waits."""

    def __init__(self) -> None:
        self.ports: dict[int, int] = {}
        self.caught = asyncio.Event()
        self._wanted: bytes | None = None
        self._free = asyncio.Event()
        self._free.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def catch(self, verb: str) -> None:
        """Stop the next connection on which this is said, once."""
        self.caught.clear()
        self._free.clear()
        self._wanted = verb.encode()

    def deliver(self) -> None:
        """What waits arrives."""
        self._free.set()

    @contextlib.asynccontextmanager
    async def to(self, agents: Sequence[int]) -> AsyncIterator[list[int]]:
        """Open a port for each of these; the ports, in order."""
        async with contextlib.AsyncExitStack() as stack:
            for agent in agents:
                server = await asyncio.start_server(self._serve_for(agent), "127.0.0.1", 0)
                stack.push_async_callback(server.wait_closed)
                stack.callback(server.close)
                self.ports[agent] = server.sockets[0].getsockname()[1]
            stack.callback(lambda: [task.cancel() for task in self._tasks])
            yield [self.ports[agent] for agent in agents]

    def _serve_for(self, agent: int):  # type: ignore[no-untyped-def]
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            try:
                there, back = await asyncio.open_connection("127.0.0.1", agent)
            except OSError:
                writer.transport.abort()
                return
            with contextlib.suppress(OSError, asyncio.CancelledError):
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._forth(reader, back))
                    group.create_task(_pass_on(there, writer))
            back.transport.abort()
            writer.transport.abort()

        return serve

    async def _forth(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What the engine says. Its end is only passed on after all that it said before."""
        while True:
            try:
                data = await reader.read(65536)
            except OSError:  # reset by the death of the engine
                data = b""
            if not data:
                break
            if self._wanted is not None and self._wanted in data:
                self._wanted = None
                self.caught.set()
                await self._free.wait()
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    gone = False
    while data := await reader.read(65536):
        if not gone:
            writer.write(data)
            try:
                await writer.drain()
            except OSError:  # nobody is there to hear it; what was said is carried out all the same
                gone = True
