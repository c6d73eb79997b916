"""An engine process as far as singletons go: one that writes to a protected resource as fast as it may.

`python -m tests.contract.singletons.writer HOSTS CLUSTER NAME SOCKET`. Tells its session on standard
output as a line of JSON, each time it opens one.
"""

from __future__ import annotations

import asyncio
import json
import sys

from engine.clock import boottime
from engine.coordination.session import SessionSettings, open_session
from engine.errors import AuthorityLost, Unavailable
from engine.plugin import EngineId, Leadership, PluginContext, Singleton
from engine.singletons.loading import Catalogue, SingletonPlugin
from engine.singletons.runner import SingletonRunner
from engine.testing.singletons import RecordedEvents, context

TICK_SECONDS = 0.5
SESSION_SECONDS = 2.0


def writing_to(socket: str) -> type[Singleton]:
    class Writes(Singleton):
        async def run(self, leadership: Leadership) -> None:
            _reader, writer = await asyncio.open_unix_connection(socket)
            try:
                async for _ in leadership.every(0.01):
                    line = json.dumps({"engine": sys.argv[3], "token": leadership.token, "t": boottime()})
                    leadership.check()
                    writer.write(line.encode() + b"\n")
                    await writer.drain()
            finally:
                writer.close()

    return Writes


async def main() -> None:
    hosts, cluster, name, socket = sys.argv[1:]
    plugin = SingletonPlugin("writes", "writer:Writes", writing_to(socket), {})

    def contexts(of: SingletonPlugin) -> PluginContext:
        return context(of.factory, {}, RecordedEvents())

    runner = SingletonRunner(Catalogue((plugin,), ()), engine=EngineId(name), contexts=contexts)
    settings = SessionSettings(
        hosts=hosts, cluster=cluster, timeout_seconds=SESSION_SECONDS, tick_seconds=TICK_SECONDS
    )
    while True:
        try:
            async with open_session(settings) as session:
                path = session.paths.member(name)
                await session.ensure(session.paths.members)
                await session.create_mine(path, b"{}")
                await session.hold(path)
                identity = session.identity
                said = {"session": identity.session_id, "password": identity.password.hex()}
                print(json.dumps(said), flush=True)
                async with session.authority.scope(), runner.serving(session, incarnation=1):
                    await session.ended.wait()
        except (AuthorityLost, Unavailable):
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main())
