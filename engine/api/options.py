"""`[api]`: where the API listens, and what it allows while there are no users yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from oslo_config import cfg

GROUP = "api"
LOCAL = ("host", "port", "workers")
"""These belong to one machine: the cluster's configuration never sets them."""

OPTS: tuple[cfg.Opt, ...] = (
    cfg.StrOpt(
        "host",
        default="127.0.0.1",
        help="Address to listen on. Nobody has to log in yet, so anything but a loopback address is "
        "refused unless `allow_unauthenticated` is set. `gunicorn --bind` overrides it.",
    ),
    cfg.PortOpt("port", default=8420, help="TCP port to listen on; 0 takes any free one."),
    cfg.IntOpt(
        "workers",
        default=2,
        min=1,
        max=64,
        help="API processes. Each has its own ZooKeeper session and database connections, and answers "
        "thousands of requests a second; two, so that one can be lost.",
    ),
    cfg.BoolOpt(
        "allow_unauthenticated",
        default=False,
        help="Let the API listen where other machines reach it, although whoever reaches it may do "
        "everything. For networks that are closed otherwise.",
    ),
    cfg.IntOpt(
        "graceful_seconds",
        default=1,
        min=1,
        max=60,
        help="How long a worker that was told to stop lets open connections finish, in seconds. Idle "
        "kept-alive connections count too, so each stop with clients takes this long.",
    ),
    cfg.IntOpt(
        "event_streams",
        mutable=True,
        default=100,
        min=0,
        max=10000,
        help="Clients that each API process follows up with events as they happen, at most; the next one is "
        "answered 503. Each costs a connection and little else: one look at the database serves all.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """`[api]`, read once."""

    host: str = "127.0.0.1"
    port: int = 8420
    workers: int = 2
    allow_unauthenticated: bool = False
    graceful_seconds: int = 1
    event_streams: int = 100

    @property
    def bind(self) -> str:
        """As gunicorn takes it; IPv6 addresses in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        """Read `[api]`; the options are registered already."""
        return cls(**{option.dest: conf[GROUP][option.dest] for option in OPTS})
