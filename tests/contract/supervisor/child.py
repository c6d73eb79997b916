"""A child for the supervisor's tests: opens a real session, makes an ephemeral node, beats.

Arguments: hosts, cluster, path of the node, then what to do: `serve`, `mute` (beat once, then never),
`leave` (end with status 0 on SIGTERM), `refuse` (end with EX_CONFIG), and at last --supervisor-fd N.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from engine.beat import Beat
from engine.coordination.identity import SessionIdentity
from engine.coordination.session import SessionSettings, open_session


async def main() -> int:
    hosts, cluster, path, what, _, fd = sys.argv[1:]
    if what == "refuse":
        return os.EX_CONFIG
    beat = Beat(int(fd), grace_seconds=1.0)
    settings = SessionSettings(hosts=hosts, cluster=cluster, timeout_seconds=30.0, tick_seconds=0.5)

    async def tell(identity: SessionIdentity) -> None:
        await beat.opened(identity, hosts, None)

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with open_session(settings, on_identity=tell) as session:
        await session.ensure(os.path.dirname(path))
        beat.ready()
        beating = asyncio.create_task(beat.run())
        await asyncio.sleep(0)  # with the first beat the supervisor's patience is a second, not a start's
        if what == "mute":
            beating.cancel()
        await session.create(path, str(os.getpid()).encode(), ephemeral=True)
        await stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
