"""sd_notify: tells systemd READY, WATCHDOG and STOPPING; silent where systemd is not the parent.

Source: sd_notify(3). One datagram to the socket named by NOTIFY_SOCKET.
"""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send `state` ('READY=1', ...). Does nothing without NOTIFY_SOCKET."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(state.encode(), address)
        except OSError:
            return  # a full or vanished socket must not stop a supervisor
