"""A TCP port of this machine that a child is told to listen on.

It lies below those that the kernel gives to clients: one of these could be somebody's connection by the
time the child binds it, and on a machine that runs tests it now and then is.
"""

from __future__ import annotations

import random
import socket

RANGE = range(10_240, 32_768)


def free_port() -> int:
    """A port that is free now; nobody reserves it."""
    for port in random.sample(RANGE, 100):
        if is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True
