"""The `[database]` options, and the settings built from them."""

from __future__ import annotations

from dataclasses import dataclass

from oslo_config import cfg

GROUP = "database"
LOCAL = "all"
"""These belong to one machine: the cluster's configuration never sets them."""

DATABASE_URL = r"^(sqlite\+aiosqlite|postgresql\+asyncpg)://"
"""What `url` has to look like."""

OPTS: tuple[cfg.Opt, ...] = (
    cfg.StrOpt(
        "url",
        default="sqlite+aiosqlite:///engine.db",
        regex=DATABASE_URL,
        secret=True,
        help="Where the database is, as an SQLAlchemy URL with an asynchronous driver. Four slashes "
        "make the path of an SQLite file absolute: sqlite+aiosqlite:////var/lib/engine/engine.db. "
        "All engines and API processes of a cluster use one database. SQLite is for engines of one "
        "machine; engines on several need PostgreSQL: postgresql+asyncpg://engine:secret@db:5432/engine.",
    ),
    cfg.FloatOpt(
        "busy_timeout_seconds",
        default=5.0,
        min=0.01,
        max=600.0,
        help="How long a transaction waits for a lock (SQLite has one for all writers, PostgreSQL one a "
        "row), and how long a task waits for a free or a new connection, in seconds, before the database "
        "counts as unavailable. Transactions of the engine last milliseconds; the default outlasts a slow "
        "disk.",
    ),
    cfg.IntOpt(
        "pool_size",
        default=15,
        min=1,
        max=1000,
        help="How many connections each process keeps at most, opened when they are needed. With SQLite each "
        "has a thread of its own; with PostgreSQL all engines and API workers together must stay below "
        "its max_connections (100). Waiting for a free one costs more than having it.",
    ),
    cfg.StrOpt(
        "secrets_key_file",
        help="The file with the keys under which passwords (of fence agents, for example) are kept in the "
        "database, readable by this program alone. `engine secrets new-key FILE` makes it and, later, puts "
        "a new key in front: the first encrypts, all decrypt. All engines and API processes of a cluster "
        "need the same keys. Without it no password can be set.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """What a `Database` is made from: `Database(settings.url, ...)`."""

    url: str
    busy_timeout_seconds: float = 5.0
    pool_size: int = 15
    secrets_key_file: str | None = None

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> DatabaseSettings:
        """Read `[database]`; the options are registered already."""
        group = conf[GROUP]
        return cls(
            url=group.url,
            busy_timeout_seconds=group.busy_timeout_seconds,
            pool_size=group.pool_size,
            secrets_key_file=group.secrets_key_file,
        )
