"""Which ports a simulation may take when it was told to take any.

They lie below those that the kernel gives to clients, or a host that refuses for a while could find
its port in use when it comes back. Free is what nobody listens on at this moment: another program may
be quicker, and then the start fails with a clear error.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from plugins.simulator.fleet import PortTaken
from plugins.simulator.host import bound_socket

RANGE = range(10_240, 32_768)
_TRIES = 20


def free_ports(count: int, *, is_free: Callable[[int], bool] | None = None) -> Sequence[int]:
    """`count` free ports in rising order, in one run if luck allows. Raises `PortTaken`."""
    is_free = is_free or _is_free
    if count > len(RANGE):
        raise PortTaken(
            f"any free ports are looked for from {RANGE[0]} to {RANGE[-1]} only; name a port instead"
        )
    for _ in range(_TRIES):
        first = random.randint(RANGE.start, RANGE.stop - count)
        run = range(first, first + count)
        if all(map(is_free, run)):
            return run
    found: list[int] = []
    for port in RANGE:
        if is_free(port):
            found.append(port)
            if len(found) == count:
                return found
    raise PortTaken(f"only {len(found)} ports from {RANGE[0]} to {RANGE[-1]} are free")


def runs(ports: Sequence[int]) -> list[tuple[int, int]]:
    """Rising `ports` as runs without holes, first and last of each."""
    found: list[tuple[int, int]] = []
    for port in ports:
        if found and found[-1][1] == port - 1:
            found[-1] = (found[-1][0], port)
        else:
            found.append((port, port))
    return found


def _is_free(port: int) -> bool:
    try:
        sock = bound_socket(port)
    except OSError:
        return False
    with sock:
        try:
            sock.listen(1)
        except OSError:
            return False
    return True
