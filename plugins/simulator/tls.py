"""TLS as the agent has it: both sides show a certificate of one authority, names are not checked.

Hosts are told apart by port here, and by what their owner knows of them elsewhere, so no host name is
verified; an unsigned or missing client certificate is refused in the handshake.
"""

from __future__ import annotations

import ssl
from asyncio.sslproto import SSLProtocol
from pathlib import Path

_READ_BYTES = 16 * 1024


def server_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """For the listeners. Raises OSError (ssl.SSLError included) when a file is unusable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    return _with_files(context, certificate, key, authority)


def client_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """For what one host asks another."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _with_files(context, certificate, key, authority)


def use_small_buffers() -> None:
    """Give asyncio's TLS connections of this process a read buffer of one record, not of 256 KiB each."""
    SSLProtocol.max_size = _READ_BYTES


def _with_files(context: ssl.SSLContext, certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    return context
