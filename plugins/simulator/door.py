"""An SSH server in front of the simulated hosts: whoever logs in may have an agent start again.

All hosts share 127.0.0.1, so the last word of the command names the host by its agent's port. The
directory holds what both sides need, made where it is missing: `host_key`, `client_key` (who logs in has to
have it) and `known_hosts`. Needs asyncssh, which nothing else here does.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from plugins.simulator.link import Refused


class NoDoor(Exception):
    """The door cannot be opened; the message says why."""


@contextlib.asynccontextmanager
async def open_door(
    directory: Path, restart: Callable[[int], Awaitable[Any]], *, port: int = 0
) -> AsyncIterator[int]:
    """Listen on 127.0.0.1; the port. `restart(agent's port)` raises `Refused`."""
    try:
        import asyncssh
    except ImportError as error:
        raise NoDoor("--ssh needs asyncssh: install the extra soft-fencing") from error

    async def serve(process: asyncssh.SSHServerProcess[str]) -> None:
        words = (process.command or "").split()
        try:
            if not words or not words[-1].isdecimal():
                raise Refused("the last word of the command has to be the port of an agent")
            await restart(int(words[-1]))
        except Refused as error:
            process.stderr.write(f"{error}\n")
            process.exit(1)
        else:
            process.exit(0)

    host_key, client_key = (_key(asyncssh, directory / name) for name in ("host_key", "client_key"))
    allowed = asyncssh.import_authorized_keys(client_key.export_public_key().decode())
    try:
        server = await asyncssh.listen(
            "127.0.0.1",
            port,
            server_host_keys=[host_key],
            authorized_client_keys=allowed,
            process_factory=serve,
            config=None,
            allow_scp=False,
        )
    except OSError as error:
        raise NoDoor(f"port {port} of 127.0.0.1: {error.strerror}") from error
    try:
        public = host_key.export_public_key().decode().strip()
        (directory / "known_hosts").write_text(f"[127.0.0.1]:{server.get_port()} {public}\n")
        yield server.get_port()
    finally:
        server.close()
        await server.wait_closed()


def _key(asyncssh: Any, path: Path) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        made = asyncssh.generate_private_key("ssh-ed25519").export_private_key()
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(made)
    return asyncssh.read_private_key(path)
