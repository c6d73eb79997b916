"""The engine's side of the supervisor's pipe: sessions told before use, then a beat from the loop.

A beat says until when this process may act. A process that is frozen, or whose loop is stuck,
sends none, and is killed once the last one has run out. Lines of JSON; a line fits PIPE_BUF, so it
is written whole or not at all.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from typing import Any

from engine.clock import boottime
from engine.coordination.authority import SessionAuthority
from engine.coordination.identity import SessionIdentity, TlsSettings
from engine.errors import Unavailable

BEAT_SECONDS = 0.2
LEAVING_SECONDS = 10.0
"""How long a process may take to end once it has closed its session: connections, threads, interpreter.
It can harm nobody any more, and on a busy machine that takes seconds."""


class Beat:
    """Writes to the supervisor, or to nobody when the engine runs without one (`fd` None)."""

    def __init__(self, fd: int | None, *, grace_seconds: float) -> None:
        """`grace_seconds`: how long the loop may be silent while there is no authority to lose."""
        self._fd = fd
        self._grace_seconds = grace_seconds
        self._authority: SessionAuthority | None = None
        if fd is not None:
            os.set_blocking(fd, False)

    async def opened(self, identity: SessionIdentity, hosts: str, tls: TlsSettings | None) -> None:
        """Tell of a session. Raises `Unavailable` when the supervisor does not take it in."""
        said = {
            "say": "session",
            "id": identity.session_id,
            "password": identity.password.hex(),
            "timeout": identity.timeout_seconds,
            "hosts": hosts,
            "tls": dataclasses.asdict(tls) if tls else None,
        }
        if not self._say(said):
            raise Unavailable("the supervisor reads nothing: it is frozen; no session is used without it")

    def acting_under(self, authority: SessionAuthority | None) -> None:
        """From now on beats reach as far as this authority does."""
        self._authority = authority

    def ended(self, identity: SessionIdentity) -> None:
        self._authority = None
        self._say({"say": "ended", "id": identity.session_id})

    def ready(self) -> None:
        self._say({"say": "ready"})

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            until = boottime() + self._grace_seconds
            if self._authority is not None and self._authority.remaining_seconds() > 0:
                until = self._authority.deadline
            self._say({"say": "beat", "until": until})
            await asyncio.sleep(BEAT_SECONDS)

    def leaving(self) -> None:
        """The last word: from now on only the process itself has to end, if there is no authority left."""
        if self._authority is None:
            self._say({"say": "beat", "until": boottime() + LEAVING_SECONDS})

    def _say(self, said: dict[str, Any]) -> bool:
        if self._fd is None:
            return True
        try:
            os.write(self._fd, json.dumps(said).encode() + b"\n")
        except BlockingIOError:
            return False
        except BrokenPipeError:
            os._exit(1)  # the supervisor is gone, and nobody would end our session
        return True
