"""How to reach ZooKeeper, and how long a session lasts without it."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.coordination.identity import TlsSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """`hosts` is "host:port,host:port", `tick_seconds` the servers' tickTime, `digest` "user:password".

    A tick longer than configured here would let a server expire the session before its authority
    has ended, so when in doubt give the longer one.
    """

    hosts: str
    cluster: str = "default"
    timeout_seconds: float = 10.0
    tick_seconds: float = 2.0
    connect_seconds: float = 10.0
    tls: TlsSettings | None = None
    digest: str | None = field(default=None, repr=False)
