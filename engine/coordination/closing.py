"""Closes the session of an engine that has died, so that what it held is free at once.

One blocking socket, no kazoo, nothing kept: the supervisor stays tiny. The session is continued on a
new connection by its id and password and then closed on it. Layouts follow zookeeper.jute
(ConnectRequest, ConnectResponse, ReplyHeader; opcode -11).
"""

from __future__ import annotations

import random
import socket
import ssl
import struct
import time

from engine.coordination.identity import SessionIdentity, TlsSettings
from engine.errors import Unavailable

_CLOSE_SESSION = -11
_LONGEST_REPLY = 1 << 16


def close_session(
    hosts: str,
    identity: SessionIdentity,
    *,
    tls: TlsSettings | None = None,
    timeout_seconds: float = 2.0,
) -> None:
    """Close the session; return once the quorum has removed its ephemeral nodes, or when it was gone
    already. Raises `Unavailable` when no server did it within `timeout_seconds`."""
    addresses = [_address(host) for host in hosts.split(",")]
    random.shuffle(addresses)
    deadline = time.monotonic() + timeout_seconds
    failure: Exception | None = None
    for tried, address in enumerate(addresses):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        try:
            # A server that is cut off from its leader answers nothing; leave time for the others.
            _close_on(address, identity, tls, left / (len(addresses) - tried))
            return
        except (OSError, struct.error) as error:
            failure = error
    raise Unavailable(f"no server of {hosts} closed the session within {timeout_seconds:g} s: {failure}")


def _address(host: str) -> tuple[str, int]:
    name, _, port = host.strip().rpartition(":")
    return (name.strip("[]") or host, int(port)) if name else (host, 2181)


def _close_on(
    address: tuple[str, int], identity: SessionIdentity, tls: TlsSettings | None, seconds: float
) -> None:
    deadline = time.monotonic() + seconds
    with socket.create_connection(address, seconds) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _secured(plain, tls, address[0])
        try:
            _send(connection, _connect_request(identity))
            _, granted_ms = struct.unpack_from(">ii", _receive(connection, deadline))
            if granted_ms <= 0:
                return  # expired, or closed by somebody else
            _send(connection, struct.pack(">ii", 1, _CLOSE_SESSION))
            while struct.unpack_from(">i", _receive(connection, deadline))[0] != 1:
                pass  # an event or a ping's answer; ours is the reply with our number
        finally:
            connection.close()


def _connect_request(identity: SessionIdentity) -> bytes:
    milliseconds = int(identity.timeout_seconds * 1000)
    fixed = struct.pack(">iqiq", 0, 0, milliseconds, identity.session_id)
    return fixed + struct.pack(">i", len(identity.password)) + identity.password + b"\0"


def _send(connection: socket.socket, body: bytes) -> None:
    connection.sendall(struct.pack(">i", len(body)) + body)


def _receive(connection: socket.socket, deadline: float) -> bytes:
    (length,) = struct.unpack(">i", _exactly(connection, 4, deadline))
    if not 0 < length <= _LONGEST_REPLY:
        raise OSError(f"a reply of {length} bytes: this is no ZooKeeper server")
    return _exactly(connection, length, deadline)


def _exactly(connection: socket.socket, length: int, deadline: float) -> bytes:
    received = b""
    while len(received) < length:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        data = connection.recv(length - len(received))
        if not data:
            raise ConnectionResetError("the server closed the connection")
        received += data
    return received


def _secured(plain: socket.socket, tls: TlsSettings | None, name: str) -> socket.socket:
    if tls is None:
        return plain
    context = ssl.create_default_context(cafile=tls.ca_file)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    return context.wrap_socket(plain, server_hostname=name)
