"""PostgreSQL, tamed: every wait has a bound, and every backend says whose it is.

A transaction of a frozen engine must not block its heir: the server ends one that is idle for 5 s, a
lock is waited for no longer than `busy_timeout_seconds`, and the backend's application_name bears the
ZooKeeper session that it works for, so that the heir can end those of a session that is over
(`end_backends`). The server's own bounds do not help against a frozen server, so the driver has one
as well, a little longer; a connection that it hit is thrown away. Server times are UTC.
"""

from __future__ import annotations

import socket
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util import await_only

IDLE_IN_TRANSACTION_SECONDS = 5.0
STATEMENT_SECONDS = 30.0
"""What no statement of the engine takes; migrations lift it for themselves."""
ANSWER_SECONDS = 5.0
"""How much longer than the server's own bound its answer is waited for."""
UNACKNOWLEDGED_SECONDS = 10.0
"""What the server's machine has not acknowledged for so long never reached it: the connection is over. Else a
machine that is cut off (or a server that is) would be noticed by the driver's bound alone."""
NAME_BYTES = 63
"""PostgreSQL cuts application_name to NAMEDATALEN - 1."""

_RENAME = "SELECT set_config('application_name', $1, false)"
_END_BACKENDS = sa.text(
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND usename = current_user"  # others' may not be ended, and are not an engine's
    " AND starts_with(application_name, :prefix)"
)


def application_name(program: str, session: int | None = None) -> str:
    """`engine:<session>:<program>`, the session in hexadecimal (0 when there is none): 63 bytes at most."""
    return (_prefix(session or 0).encode() + program.encode())[:NAME_BYTES].decode(errors="ignore")


def connect_arguments(
    busy_timeout_seconds: float, statement_seconds: float, answer_seconds: float
) -> dict[str, Any]:
    """What the driver is to be connected with."""
    return {
        "timeout": busy_timeout_seconds,
        "command_timeout": statement_seconds + answer_seconds,
        "server_settings": {
            "timezone": "UTC",
            "lock_timeout": _milliseconds(busy_timeout_seconds),
            "statement_timeout": _milliseconds(statement_seconds),
            "idle_in_transaction_session_timeout": _milliseconds(IDLE_IN_TRANSACTION_SECONDS),
            "jit": "off",  # statements last milliseconds; compiling one takes longer
            # The server notices a machine that vanished with its connections open.
            "tcp_keepalives_idle": "5",
            "tcp_keepalives_interval": "2",
            "tcp_keepalives_count": "3",
        },
    }


class Names:
    """Gives every connection the present application_name when it is taken from the pool."""

    def __init__(self, program: str) -> None:
        self._program = program
        self.present = application_name(program)

    def work_for(self, session: int | None) -> None:
        """From now on connections are taken for this ZooKeeper session."""
        self.present = application_name(self._program, session)

    def checked_out(self, connection: Any, record: Any, _proxy: Any) -> None:
        """Renaming costs a round trip, once a connection and session.

        What is raised for a connection that died in the pool makes the pool open another.
        """
        driver = connection.driver_connection
        if driver.is_closed():  # known without asking: the loop has seen the end of its stream
            raise sa.exc.DisconnectionError("the connection was closed while nobody used it")
        if record.info.get("application_name") == self.present:
            return
        try:
            await_only(driver.execute(_RENAME, self.present))
        except Exception as error:  # whatever the driver says of it: another connection will do
            raise sa.exc.DisconnectionError(str(error)) from error
        record.info["application_name"] = self.present


def take_control(engine: AsyncEngine, names: Names) -> None:
    """Name the connections of this engine, and throw away those that did not answer in time."""
    sa.event.listen(engine.sync_engine, "connect", _bound_the_network)
    sa.event.listen(engine.sync_engine, "checkout", names.checked_out)
    sa.event.listen(engine.sync_engine, "handle_error", _distrust_the_silent, retval=True)


def _bound_the_network(connection: Any, _record: Any) -> None:
    # asyncpg has no option for it, nor a public way to the socket.
    transport = getattr(connection.driver_connection, "_transport", None)
    channel = transport.get_extra_info("socket") if transport is not None else None
    if channel is None or channel.family == socket.AF_UNIX:
        return
    limit = _milliseconds(UNACKNOWLEDGED_SECONDS)
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limit))


def _distrust_the_silent(context: sa.engine.ExceptionContext) -> BaseException | None:
    """The driver's time limit, or the network's error, leaves a connection in an unknown state: it is
    dropped, and the error becomes one of SQLAlchemy's."""
    error = context.original_exception
    if not isinstance(error, OSError):  # TimeoutError is one
        return None
    context.is_disconnect = True
    said = str(error) or "no answer in time"
    return sa.exc.OperationalError(
        context.statement, None, ConnectionError(said), connection_invalidated=True
    )


async def end_backends(connection: AsyncConnection, session: int) -> int:
    """End the backends that work for this ZooKeeper session, which is over; how many there were.

    Their transactions are rolled back, their locks free a moment later.
    """
    ended = await connection.execute(_END_BACKENDS, {"prefix": _prefix(session)})
    return int(ended.scalar_one())


def _prefix(session: int) -> str:
    return f"engine:{session & 0xFFFF_FFFF_FFFF_FFFF:x}:"


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))
