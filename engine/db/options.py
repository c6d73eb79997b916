"""The `[database]` options, and the settings built from them."""

from __future__ import annotations

from dataclasses import dataclass

from oslo_config import cfg

GROUP = "database"

OPTS: tuple[cfg.Opt, ...] = (
    cfg.StrOpt(
        "url",
        default="sqlite+aiosqlite:///engine.db",
        regex=r"^(sqlite\+aiosqlite|postgresql\+asyncpg)://",
        secret=True,
        help="Where the database is, as an SQLAlchemy URL with an asynchronous driver. Four slashes "
        "make the path of an SQLite file absolute: sqlite+aiosqlite:////var/lib/engine/engine.db. "
        "All engines and API processes of a cluster use one database.",
    ),
    cfg.FloatOpt(
        "busy_timeout_seconds",
        default=5.0,
        min=0.01,
        max=600.0,
        help="How long a transaction waits for SQLite's one write lock, and how long a task waits for "
        "a free connection, in seconds, before the database counts as unavailable. Transactions "
        "of the engine last milliseconds; the default outlasts a slow disk.",
    ),
    cfg.IntOpt(
        "pool_size",
        default=15,
        min=1,
        max=1000,
        help="How many connections each process keeps at most. With SQLite each has a thread of its "
        "own, opened when it is needed. Waiting for a free one costs more than having it.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """What a `Database` is made from: `Database(settings.url, ...)`."""

    url: str
    busy_timeout_seconds: float = 5.0
    pool_size: int = 15

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> DatabaseSettings:
        """Read `[database]`; the options are registered already."""
        group = conf[GROUP]
        return cls(
            url=group.url,
            busy_timeout_seconds=group.busy_timeout_seconds,
            pool_size=group.pool_size,
        )
