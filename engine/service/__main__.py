"""`python -m engine.service`: one engine process, the child of `engine.supervisor`."""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import logging
import os
import signal
from collections.abc import Sequence

from oslo_config import cfg

from engine import options
from engine.beat import Beat
from engine.config.live import LiveConfiguration, RestartNeeded
from engine.errors import Conflict, InvalidInput
from engine.processes import leave
from engine.service import GC_THRESHOLDS
from engine.service.root import Service

LOG = logging.getLogger("engine.service")


async def _main(shared: LiveConfiguration, supervisor_fd: int | None) -> None:
    """Serve until told to stop. Raises `RestartNeeded` after SIGHUP, when all is handed over."""
    beat = Beat(supervisor_fd, grace_seconds=shared.conf.coordination.timeout_seconds / 2)
    service = Service(shared.conf, beat, shared=shared)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stopping.set)
    again = False

    def start_again() -> None:
        nonlocal again
        again = True
        service.stopping.set()

    loop.add_signal_handler(signal.SIGHUP, start_again)
    for number, drained in ((signal.SIGUSR1, True), (signal.SIGUSR2, False)):
        loop.add_signal_handler(number, functools.partial(service.drain, drained=drained))
    beating = asyncio.create_task(beat.run(), name="beat")
    try:
        await service.run()
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        beat.leaving()
    if again:
        raise RestartNeeded("it was asked for")


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m engine.service [--config-file FILE]... [--supervisor-fd N]`."""
    parser = argparse.ArgumentParser(prog="engine.service")
    parser.add_argument("--config-file", action="append", default=[])
    parser.add_argument("--supervisor-fd", type=int)
    arguments = parser.parse_args(argv)
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        shared = options.load_shared(arguments.config_file, program="engine")
        asyncio.run(_main(shared, arguments.supervisor_fd))
    except RestartNeeded as needed:
        LOG.warning("ending, to be started again: %s", needed)
        return os.EX_TEMPFAIL
    except (InvalidInput, Conflict, cfg.Error) as error:
        refusal = str(error)
    else:
        return 0
    LOG.error("%s", refusal)  # out here, oslo.log does not say it twice
    return os.EX_CONFIG


if __name__ == "__main__":
    leave(main())
