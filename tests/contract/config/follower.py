"""A process that follows the shared configuration as an engine (`engine-...`) or an API worker (`api-...`)
does, with all the options of the engine, through as many sessions as it takes.

`python -m tests.contract.config.follower NAME HOSTS TICK CLUSTER DIRECTORY`: says, a JSON object a line,
`applied` each time that values took effect, and `report` for each line that it is sent. For `test_soak.py`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from pathlib import Path

from engine import options
from engine.config.live import LiveConfiguration
from engine.coordination.session import SessionSettings, open_session
from engine.errors import EngineError

WATCHED = (
    "hosts/tick_seconds",
    "hosts/grace_attempts",
    "commands/concurrent",
    "commands/look_seconds",
    "engine/weight",
    "sharding/shards",
)
TIMEOUT_SECONDS = 2.0


def values(live: LiveConfiguration) -> dict[str, object]:
    """What is in force, by key; of hosts of one cluster as `hosts@<cluster>/<option>`."""
    found = {key: live.conf[key.split("/")[0]][key.split("/")[1]] for key in WATCHED}
    for cluster, own in live.overrides("hosts").items():
        found |= {f"hosts@{cluster}/{name}": value for name, value in own.items()}
    return found


def say(live: LiveConfiguration, what: str) -> None:
    status = live.status
    told = {what: values(live), "pending": list(status.pending), "refused": sorted(status.refused)}
    print(json.dumps(told), flush=True)


async def follow(live: LiveConfiguration, settings: SessionSettings) -> None:
    while True:
        try:
            async with open_session(settings) as session, live.following(session):
                await session.ended.wait()
        except EngineError as error:
            print(error, file=sys.stderr, flush=True)
        await asyncio.sleep(0.05)


async def main(name: str, settings: SessionSettings, directory: Path) -> None:
    live = LiveConfiguration(
        [],
        directory / f"{name}.shared",
        catalogue=options.catalogue(),
        read=lambda files: options.read(files, program="follower"),
        name=name,
        engine=name if name.startswith("engine") else None,
    )
    await asyncio.to_thread(live.start, settings)
    live.conf.register_mutate_hook(lambda _conf, _changed: say(live, "applied"))
    say(live, "applied")
    loop = asyncio.get_running_loop()

    def asked() -> None:
        for _ in sys.stdin:
            loop.call_soon_threadsafe(say, live, "report")

    threading.Thread(target=asked, daemon=True, name="asked").start()
    await follow(live, settings)


if __name__ == "__main__":
    called, hosts, tick, cluster, place = sys.argv[1:]
    asyncio.run(
        main(
            called,
            SessionSettings(
                hosts=hosts,
                cluster=cluster,
                tick_seconds=float(tick),
                timeout_seconds=TIMEOUT_SECONDS,
                connect_seconds=20.0,
            ),
            Path(place),
        )
    )
