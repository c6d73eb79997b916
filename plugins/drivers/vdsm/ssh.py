"""The way to a host that needs no agent: one command over SSH, which starts the agent again.

Invariant: the command is sent at most once, right after authority was checked, and only to a host that
has shown the key by which it is known (unless the options waive that). Nothing of the user's own SSH
configuration counts. asyncssh is imported only where this is configured: it is an extra, `soft-fencing`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from engine.plugin import Authority, HostRefused, HostTarget, HostUnreachable, InvalidInput, OutcomeUnknown
from plugins.drivers.vdsm.options import SshSettings

if TYPE_CHECKING:
    import asyncssh

_TOLD = 300
"""How much of what a host said of a failure is told on, in characters."""


class SshDoor:
    """Raises `InvalidInput` where asyncssh is missing or a file is of no use."""

    def __init__(self, settings: SshSettings) -> None:
        self._settings = settings
        try:
            import asyncssh
        except ImportError:
            raise _unfit(
                "ssh_key_file", "needs asyncssh: install the extra soft-fencing, or unset it"
            ) from None
        self._ssh = asyncssh
        try:
            self._key = asyncssh.read_private_key(settings.key_file)
        except (OSError, asyncssh.KeyImportError) as error:
            raise _unfit("ssh_key_file", f"{settings.key_file} cannot be used: {error}") from error
        self._known: Any = None
        if settings.known_hosts_file is not None:
            try:
                self._known = asyncssh.read_known_hosts(settings.known_hosts_file)
            except (OSError, ValueError) as error:
                why = f"{settings.known_hosts_file} cannot be used: {error}"
                raise _unfit("ssh_known_hosts_file", why) from error

    async def restart_agent(self, target: HostTarget, authority: Authority) -> None:
        """See `HostDriver.restart_agent`."""
        name = f"ssh {self._settings.user}@{target.address}:{self._settings.port}"
        authority.check()
        deadline = asyncio.get_running_loop().time() + min(
            self._settings.seconds, authority.remaining_seconds()
        )
        connection = await self._log_in(target, name, deadline)
        try:
            authority.check()
            await self._run(connection, target, name, deadline)
        finally:
            connection.abort()

    async def _log_in(self, target: HostTarget, name: str, deadline: float) -> asyncssh.SSHClientConnection:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._ssh.connect(
                    target.address,
                    self._settings.port,
                    username=self._settings.user,
                    client_keys=[self._key],
                    known_hosts=self._known,
                    config=None,
                    agent_path=None,
                    preferred_auth="publickey",
                )
        except TimeoutError:
            raise HostUnreachable(f"{name}: not logged in within {self._settings.seconds:.0f} s") from None
        except (self._ssh.HostKeyNotVerifiable, self._ssh.PermissionDenied) as error:
            raise HostRefused(-1, f"{name}: {error.reason}") from error
        except (OSError, self._ssh.Error) as error:
            raise HostUnreachable(f"{name}: {error}") from error

    async def _run(
        self, connection: asyncssh.SSHClientConnection, target: HostTarget, name: str, deadline: float
    ) -> None:
        command = self._settings.command.replace("{port}", str(target.port))
        try:
            async with asyncio.timeout_at(deadline):
                done = await connection.run(command, errors="replace", stdin=self._ssh.DEVNULL)
        except TimeoutError:
            raise OutcomeUnknown(f"{name}: {command!r} did not end in time") from None
        except self._ssh.ChannelOpenError as error:
            raise HostRefused(-1, f"{name}: {error.reason}") from error
        except (OSError, self._ssh.Error) as error:
            raise OutcomeUnknown(f"{name}: the connection was lost: {error}") from error
        if done.exit_status is None:
            raise OutcomeUnknown(f"{name}: {command!r} ended by {done.exit_signal or 'an unknown cause'}")
        if done.exit_status != 0:
            said = " ".join(str(done.stderr or done.stdout or "").split())[:_TOLD]
            why = f"{name}: {command!r} ended with status {done.exit_status}: {said or 'it said nothing'}"
            raise HostRefused(done.exit_status, why)


def _unfit(option: str, why: str) -> InvalidInput:
    return InvalidInput(f"the options of the vdsm driver do not fit: {option}: {why}", fields={option: why})
