"""Mutual TLS without sockets: bytes in clear on one side, records on the other.

asyncio's own TLS keeps a read buffer of 256 KiB for each connection and hides how much it has not
written yet, which the driver must know before it writes a verb. This one keeps two memory BIOs that
never hold more than a few KiB, and OpenSSL frees its record buffers while a connection is idle.
"""

from __future__ import annotations

import ssl
from typing import Final

from engine.plugin import InvalidInput

_PIECE: Final = 4096
"""A memory BIO never gives back what it once grew to, so it is filled in pieces of this size."""
_RECORD: Final = 16 * 1024


def client_context(
    ca_file: str, cert_file: str, key_file: str, *, check_hostname: bool = False
) -> ssl.SSLContext:
    """The context that all connections share. Raises `InvalidInput` naming the file that is no good."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = check_hostname
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ValueError) as error:
        raise _unusable("ca_file", ca_file, error) from error
    try:
        context.load_cert_chain(cert_file, key_file, password=_refuse_pass_phrase)
    except (OSError, ValueError) as error:
        raise _unusable("cert_file", f"{cert_file} with {key_file}", error) from error
    return context


class TlsChannel:
    """One connection's TLS. `outgoing()` must be sent after each of the other calls."""

    __slots__ = ("_from_wire", "_ssl", "_to_wire", "established")

    def __init__(self, context: ssl.SSLContext, address: str) -> None:
        self._from_wire, self._to_wire = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._from_wire, self._to_wire, server_hostname=address)
        self.established = False

    def begin(self) -> None:
        """Start the handshake."""
        self._shake_hands()

    def outgoing(self) -> bytes:
        """The records that await sending, often none."""
        return self._to_wire.read()

    def seal(self, data: bytes) -> bytes:
        """The records that carry `data`, and whatever awaited sending before them."""
        self._ssl.write(data)
        return self._to_wire.read()

    def open(self, records: memoryview) -> bytes:
        """What these bytes from the wire say in clear; they may end inside a record.

        Raises `ssl.SSLError`, also for an orderly end: the agent never ends a session that way.
        """
        clear: list[bytes] = []
        for at in range(0, len(records), _PIECE):
            self._from_wire.write(records[at : at + _PIECE])
            if self.established or self._shake_hands():
                self._read_into(clear)
        return clear[0] if len(clear) == 1 else b"".join(clear)

    def _shake_hands(self) -> bool:
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.established = True
        return True

    def _read_into(self, clear: list[bytes]) -> None:
        while self._from_wire.pending or self._ssl.pending():
            try:
                data = self._ssl.read(_RECORD)
            except ssl.SSLWantReadError:
                return
            if not data:
                raise ssl.SSLZeroReturnError("the host ended the TLS session")
            clear.append(data)


def _refuse_pass_phrase() -> str:
    raise ValueError("the key has a pass phrase")


def _unusable(field: str, path: str, error: Exception) -> InvalidInput:
    return InvalidInput(f"{path} cannot be used: {error}", fields={field: str(error)})
