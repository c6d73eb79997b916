"""Who a session is and how its wire is secured: plain values, shared with the supervisor.

Imports nothing of kazoo: the supervisor keeps small by it.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SessionIdentity:
    """What names a ZooKeeper session to a server. `timeout_seconds` is the negotiated one.

    Who has the password can resume or close the session: it goes into no log.
    """

    session_id: int
    password: bytes = field(repr=False)
    timeout_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """PEM files for TLS with the servers. `verify=False` accepts any certificate: for tests only."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify: bool = True
