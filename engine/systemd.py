"""sd_notify: tells systemd READY, WATCHDOG and STOPPING; silent where systemd is not the parent.

Source: sd_notify(3). One datagram to the socket named by NOTIFY_SOCKET.
"""

from __future__ import annotations

import os
import socket


def notify(state: str) -> bool:
    """Send `state` ('READY=1', ...); False when the manager takes nothing in at this moment.

    True also without NOTIFY_SOCKET: there is nobody to tell. Never waits: a manager that is stuck
    must not hold up a supervisor.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return True
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.setblocking(False)
        try:
            channel.sendto(state.encode(), address)
        except OSError:
            return False
    return True
