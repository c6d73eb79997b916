"""Mutual TLS without sockets: bytes in clear on one side, records on the other.

asyncio's own TLS keeps a read buffer of 256 KiB for each connection and hides how much it has not
written yet, which the driver must know before it writes a verb. This one keeps two memory BIOs that
never hold more than a few KiB, and OpenSSL frees its record buffers while a connection is idle.
"""

from __future__ import annotations

import ssl
from typing import Final

from engine.plugin import EngineError, InvalidInput

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


class TlsFault(EngineError):
    """TLS failed, or the host ended it. `clear` is what it had said before in the same piece."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"TLS failed: {reason}")
        self.clear = b""


class TlsChannel:
    """One connection's TLS. `outgoing()` must be sent after `begin` and `open`, also after a fault."""

    __slots__ = ("_from_wire", "_ssl", "_to_wire", "established")

    def __init__(self, context: ssl.SSLContext, address: str) -> None:
        self._from_wire, self._to_wire = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._from_wire, self._to_wire, server_hostname=address)
        self.established = False

    def begin(self) -> None:
        """Start the handshake."""
        self._shake_hands()

    def outgoing(self) -> bytes:
        """The records that await sending, often none; after a fault the alert that says why."""
        return self._to_wire.read()

    def seal(self, data: bytes) -> bytes:
        """The records that carry `data`, and whatever awaited sending before them."""
        try:
            self._ssl.write(data)
        except ssl.SSLError as error:
            raise TlsFault(_reason(error)) from error
        return self._to_wire.read()

    def open(self, records: memoryview) -> bytes:
        """What these bytes from the wire say in clear; they may end inside a record.

        Raises `TlsFault`, also for an orderly end: what follows could not be trusted to be the host's.
        """
        clear: list[bytes] = []
        try:
            for at in range(0, len(records), _PIECE):
                self._from_wire.write(records[at : at + _PIECE])
                if self.established or self._shake_hands():
                    self._read_into(clear)
        except ssl.SSLError as error:
            fault = TlsFault(_reason(error))
            fault.clear = b"".join(clear)
            raise fault from error
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
                raise ssl.SSLZeroReturnError(ssl.SSL_ERROR_ZERO_RETURN, "the host ended the session")
            clear.append(data)


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{error.reason}: {error.verify_message}"
    return getattr(error, "reason", None) or error.strerror or str(error)


def _refuse_pass_phrase() -> str:
    raise ValueError("the key has a pass phrase")


def _unusable(field: str, path: str, error: Exception) -> InvalidInput:
    return InvalidInput(f"{path} cannot be used: {error}", fields={field: str(error)})
