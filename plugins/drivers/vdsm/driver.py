"""Opens sessions with VDSM hosts: resolve, connect, TLS, STOMP, subscribe, all within one deadline.

One driver an engine: it owns the TLS context and the read buffer that its connections share.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

from engine.plugin import (
    UNSUPPORTED_CODE,
    Authority,
    HostDriver,
    HostEvent,
    HostRefused,
    HostTarget,
    HostUnreachable,
)
from plugins.drivers.vdsm.connection import VdsmConnection
from plugins.drivers.vdsm.options import LOCAL, OPTIONS, Settings
from plugins.drivers.vdsm.ssh import SshDoor
from plugins.drivers.vdsm.stomp import Decoder
from plugins.drivers.vdsm.tls import TlsChannel, client_context
from plugins.drivers.vdsm.wire import READ_BUFFER_BYTES, Wire, open_socket


class VdsmDriver(HostDriver):
    """Entry point `engine.drivers`, name `vdsm`; options `[driver_vdsm]`."""

    options: ClassVar[Sequence[Any]] = OPTIONS
    local: ClassVar[Collection[str]] = LOCAL

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        settings = self._settings
        self._read_buffer = memoryview(bytearray(READ_BUFFER_BYTES))
        self._tls = None
        if settings.tls_files is not None:
            self._tls = client_context(*settings.tls_files, check_hostname=settings.check_hostname)
        self._ssh = SshDoor(settings.ssh) if settings.ssh is not None else None

    @property
    def _settings(self) -> Settings:
        """As they are now: a connection has those of its making."""
        return Settings.from_values(self._values)

    async def connect(
        self,
        target: HostTarget,
        *,
        authority: Authority,
        on_event: Callable[[HostEvent], None],
    ) -> VdsmConnection:
        """See `HostDriver.connect`. Gives up when authority would end, if that is sooner."""
        authority.check()
        name = _name(target)
        seconds = min(self._settings.connect_seconds, authority.remaining_seconds())
        try:
            async with asyncio.timeout(seconds):
                sock = await _connected_socket(target, name, authority)
                return await self._session(sock, target, name, authority, on_event)
        except TimeoutError:
            raise HostUnreachable(f"{name}: no session within {seconds:.1f} s") from None

    async def restart_agent(self, target: HostTarget, *, authority: Authority) -> None:
        """See `HostDriver.restart_agent`; by SSH."""
        if self._ssh is None:
            raise HostRefused(
                UNSUPPORTED_CODE,
                "this engine has no way to start agents again: [driver_vdsm] ssh_key_file is not set",
            )
        await self._ssh.restart_agent(target, authority)

    async def _session(
        self,
        sock: socket.socket,
        target: HostTarget,
        name: str,
        authority: Authority,
        on_event: Callable[[HostEvent], None],
    ) -> VdsmConnection:
        settings = self._settings
        wire = functools.partial(
            Wire,
            name=name,
            authority=authority,
            read_buffer=self._read_buffer,
            decoder=Decoder(settings.max_message_bytes),
            tls=TlsChannel(self._tls, target.address) if self._tls is not None else None,
        )
        connection = VdsmConnection(
            target,
            wire=wire,
            call_seconds=settings.call_seconds,
            heartbeat_seconds=settings.heartbeat_seconds,
            on_event=on_event,
        )
        try:
            await asyncio.get_running_loop().create_connection(lambda: connection.wire, sock=sock)
            await connection.ready
        except BaseException:
            await connection.close()
            raise
        return connection


def _name(target: HostTarget) -> str:
    address = f"[{target.address}]" if ":" in target.address else target.address
    return f"{address}:{target.port}"


def _why(error: OSError) -> str:
    """The system's own words; asyncio's say less, and resolvers use numbers of their own."""
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)


async def _connected_socket(target: HostTarget, name: str, authority: Authority) -> socket.socket:
    """Try the address, or each address of the name, in turn."""
    loop = asyncio.get_running_loop()
    try:
        found = await _resolve(target)
    except OSError as error:
        raise HostUnreachable(f"{name}: {_why(error)}") from error
    failures: list[OSError] = []
    for family, address in found:
        sock = open_socket(family, authority)
        try:
            await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failures.append(error)
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise HostUnreachable(f"{name}: {_why(failures[-1])}") from failures[-1]


async def _resolve(target: HostTarget) -> list[tuple[int, Any]]:
    """Addresses are taken as they are: no thread for ten thousand of them."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, target.address)
        except OSError:
            continue
        return [(family, (target.address, target.port))]
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(target.address, target.port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]
