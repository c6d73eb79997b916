"""The schema, as SQLAlchemy Core tables; `migrations/` creates it.

Portable over SQLite and PostgreSQL. Times are UTC. Epochs are 63-bit integers
(`incarnation << 32 | version of the shard's node`) and only ever grow.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from engine.db.xact import CurrentXact


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """Aware datetimes in, aware UTC datetimes out, also where the database keeps no zone (SQLite)."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise TypeError(f"a time without its zone: {value!r}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

big_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""SQLite numbers rows by itself only in a column of type INTEGER."""

# What was fixed when the cluster was made; a member that differs is refused at the door.
setting = sa.Table(
    "setting",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.String(255), nullable=False),
)

# Each ZooKeeper tree this cluster has lived in, counted; the highest is the present one.
incarnation = sa.Table(
    "incarnation",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("id", sa.String(36), nullable=False, unique=True),
    sa.Column("registered_at", UtcDateTime(), nullable=False),
)

DEFAULT_CLUSTER = "00000000-0000-0000-0000-000000000001"
"""The id of the host cluster that every installation begins with, named `default`."""

# A group of hosts (a data centre's cluster); what VMs of it may run where, and how they are spread.
host_cluster = sa.Table(
    "host_cluster",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("name", sa.String(255), nullable=False, unique=True),
    sa.Column("description", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("policy", sa.String(16), nullable=False),
    sa.Column("memory_percent", sa.Integer, nullable=False),
    sa.Column("cpu_percent", sa.Integer, nullable=False),
    sa.Column("fencing", sa.Boolean, nullable=False),
    sa.Column("balancing", sa.String(16), nullable=False, server_default=sa.text("'none'")),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("created_at", UtcDateTime(), nullable=False),
)

shard = sa.Table(
    "shard",
    metadata,
    sa.Column("shard", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("owner", sa.String(255)),
    sa.Column("taken_at", UtcDateTime()),
)

host = sa.Table(
    "host",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("name", sa.String(255), nullable=False, unique=True),
    sa.Column("address", sa.String(255), nullable=False),
    sa.Column("port", sa.Integer, nullable=False),
    sa.Column("driver", sa.String(64), nullable=False),
    sa.Column("shard", sa.Integer, nullable=False, index=True),
    sa.Column("status", sa.String(32), nullable=False, index=True),
    sa.Column("status_reason", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("status_since", UtcDateTime(), nullable=False),
    sa.Column("capabilities", sa.JSON),
    sa.Column("statistics", sa.JSON),
    sa.Column("reported_at", UtcDateTime()),
    sa.Column("created_at", UtcDateTime(), nullable=False),
    sa.Column(
        "cluster_id",
        sa.String(36),
        nullable=False,
        index=True,
        server_default=sa.text(f"'{DEFAULT_CLUSTER}'"),
    ),
    sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
    sa.Column("power_management", sa.JSON),
    sa.Column("fenced_at", UtcDateTime()),
    # What was asked of the host's monitor, numbered; done once `heeded_count` has caught up.
    sa.Column("asked", sa.String(32)),
    sa.Column("asked_count", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("heeded_count", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.UniqueConstraint("address", "port"),
)

# A virtual machine. Where it runs (`host_id`) is written before it is created there, under the guard
# of that host's shard; `destination_id` likewise while it migrates.
vm = sa.Table(
    "vm",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("name", sa.String(255), nullable=False, unique=True),
    sa.Column("description", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("cluster_id", sa.String(36), nullable=False, index=True),
    sa.Column("shard", sa.Integer, nullable=False, index=True),
    sa.Column("memory_bytes", sa.BigInteger, nullable=False),
    sa.Column("cpus", sa.Integer, nullable=False),
    sa.Column("highly_available", sa.Boolean, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False, server_default=sa.text("50")),
    # What people asked for last: 'up' or 'down'. Of one that is down though it should be up, how often
    # it was restarted and when it is next.
    sa.Column("wanted", sa.String(8), nullable=False, server_default=sa.text("'down'")),
    sa.Column("restart_tries", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("restart_at", UtcDateTime()),
    sa.Column("pinned_host_id", sa.String(36)),
    sa.Column("affinity_group", sa.String(255)),
    sa.Column("affinity", sa.String(16)),
    sa.Column("status", sa.String(32), nullable=False, index=True),
    sa.Column("status_reason", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("status_since", UtcDateTime(), nullable=False),
    sa.Column("host_id", sa.String(36), index=True),
    sa.Column("destination_id", sa.String(36), index=True),
    sa.Column("operation_id", sa.String(64)),
    sa.Column("missing_since", UtcDateTime()),
    sa.Column("tried_hosts", sa.JSON),
    sa.Column("exit_code", sa.Integer),
    sa.Column("exit_reason", sa.Integer),
    sa.Column("exit_message", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("reported_at", UtcDateTime()),
    sa.Column("created_at", UtcDateTime(), nullable=False),
    sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
)

event = sa.Table(
    "event",
    metadata,
    sa.Column("id", big_id, primary_key=True, autoincrement=True),
    sa.Column("at", UtcDateTime(), nullable=False, index=True),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("engine", sa.String(255)),
    sa.Column("host_id", sa.String(36), index=True),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Column("xact", sa.BigInteger, nullable=False, default=CurrentXact(), server_default=sa.text("0")),
    sa.Index("ix_event_xact_id", "xact", "id"),  # the order in which they are followed
)

# The highest token of each singleton's leadership: a write of a former leader finds a higher one.
leadership = sa.Table(
    "leadership",
    metadata,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("token", sa.BigInteger, nullable=False),
)

ENTITIES = (host, host_cluster, vm)
"""What commands are about: their steps may read and write these rows, and no others."""

# A command, from its submission until retention removes it. `shard` is where it is at present, and
# `epoch` under which that shard's owner has claimed it; `lock_token` is its hold in ZooKeeper.
command = sa.Table(
    "command",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("type", sa.String(64), nullable=False),
    sa.Column("arguments", sa.JSON, nullable=False),
    sa.Column("entity_kind", sa.String(32), nullable=False),
    sa.Column("entity_id", sa.String(128), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("shard", sa.Integer, nullable=False),
    sa.Column("epoch", sa.BigInteger),
    sa.Column("engine", sa.String(255)),
    sa.Column("root_id", sa.String(36), nullable=False, index=True),
    sa.Column("parent_id", sa.String(36), index=True),
    sa.Column("parent_operation", sa.String(36)),
    sa.Column("locks", sa.JSON, nullable=False),
    sa.Column("lock_token", sa.BigInteger),
    sa.Column("lock_wait_until", UtcDateTime()),
    sa.Column("user", sa.String(255), nullable=False),
    sa.Column("goal", sa.String(16)),
    sa.Column("undo_from", sa.String(64)),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("quarantine_until", UtcDateTime()),
    sa.Column("percent", sa.Integer, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime(), nullable=False),
    sa.Column("started_at", UtcDateTime()),
    sa.Column("ended_at", UtcDateTime(), index=True),
    sa.Index("ix_command_created_at_id", "created_at", "id"),
    sa.Index("ix_command_state_created_at_id", "state", "created_at", "id"),
    sa.Index("ix_command_type_created_at_id", "type", "created_at", "id"),
    sa.Index("ix_command_entity_id_created_at_id", "entity_id", "created_at", "id"),
)
sa.Index(
    "ix_command_open_shard",
    command.c.shard,
    sqlite_where=command.c.ended_at.is_(None),
    postgresql_where=command.c.ended_at.is_(None),
)

# One row for each time that a step was intended; without `ended_at` it may be under way.
step = sa.Table(
    "step",
    metadata,
    sa.Column("operation_id", sa.String(36), primary_key=True),
    sa.Column("command_id", sa.String(36), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("verdict", sa.String(16)),
    sa.Column("host_id", sa.String(36)),
    sa.Column("children", sa.Integer, nullable=False),
    sa.Column("result", sa.JSON, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("intended_at", UtcDateTime(), nullable=False),
    sa.Column("ended_at", UtcDateTime()),
    sa.UniqueConstraint("command_id", "number"),
    sa.UniqueConstraint("command_id", "name", "attempt"),
)

# Which command a client's key stands for, so that asking again asks for nothing new.
idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("user", sa.String(255), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("command_id", sa.String(36), nullable=False, index=True),
    sa.Column("created_at", UtcDateTime(), nullable=False),
)

# What is to be run and when; `version` counts people's edits. `next_fire_at` is the next planned time,
# NULL once there is none left: only the shard's owner advances it, together with the fires.
schedule = sa.Table(
    "schedule",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("name", sa.String(255), nullable=False, unique=True),
    sa.Column("job_group", sa.String(255), nullable=False, index=True),
    sa.Column("origin", sa.String(16), nullable=False),
    sa.Column("shard", sa.Integer, nullable=False),
    sa.Column("trigger", sa.JSON, nullable=False),
    sa.Column("start_at", UtcDateTime()),
    sa.Column("end_at", UtcDateTime()),
    sa.Column("jitter_seconds", sa.Float, nullable=False),
    sa.Column("misfire", sa.String(16), nullable=False),
    sa.Column("grace_seconds", sa.Float, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("action", sa.String(255), nullable=False),
    sa.Column("arguments", sa.JSON, nullable=False),
    sa.Column("overlap", sa.Boolean, nullable=False),
    sa.Column("timeout_seconds", sa.Float),
    sa.Column("retries", sa.Integer, nullable=False),
    sa.Column("retry_seconds", sa.Float, nullable=False),
    sa.Column("recovery", sa.String(16), nullable=False),
    sa.Column("keep", sa.Integer, nullable=False),
    sa.Column("user", sa.String(255), nullable=False),
    sa.Column("paused", sa.Boolean, nullable=False),
    sa.Column("next_fire_at", UtcDateTime()),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("created_at", UtcDateTime(), nullable=False),
    sa.Index("ix_schedule_shard_next_fire_at", "shard", "next_fire_at"),
)

# One run of a schedule. `epoch` is that under which it was started or taken over; `running_key` is the
# schedule's id while it runs and overlap is forbidden, so that two can never run side by side.
fire = sa.Table(
    "fire",
    metadata,
    sa.Column("schedule_id", sa.String(36), primary_key=True),
    sa.Column("fire_at", UtcDateTime(), primary_key=True),
    sa.Column("shard", sa.Integer, nullable=False),
    sa.Column("epoch", sa.BigInteger),
    sa.Column("engine", sa.String(255)),
    sa.Column("cause", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("running_key", sa.String(36), unique=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("retry_at", UtcDateTime()),
    sa.Column("command_id", sa.String(36)),
    sa.Column("result", sa.JSON),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("started_at", UtcDateTime()),
    sa.Column("ended_at", UtcDateTime()),
)
sa.Index(
    "ix_fire_open_shard",
    fire.c.shard,
    sqlite_where=fire.c.ended_at.is_(None),
    postgresql_where=fire.c.ended_at.is_(None),
)
