"""Mutual TLS between engines: each side shows a certificate of the cluster's authority.

The caller checks that the certificate names the engine that it meant; the callee, that it names a member
of the cluster (or one of `[execution] callers`).
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from engine.errors import InvalidInput
from engine.execution.options import CertificateFiles


def server_context(files: CertificateFiles) -> ssl.SSLContext:
    return _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files)


def client_context(files: CertificateFiles) -> ssl.SSLContext:
    """Checks the name that is asked for: aiohttp's `server_hostname`."""
    return _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), files)


def names_in(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """Whom a peer's certificate (as `SSLSocket.getpeercert` gives it) names: its DNS names, lower case."""
    alternatives = (certificate or {}).get("subjectAltName", ())
    return frozenset(value.lower() for kind, value in alternatives if kind == "DNS")


def _loaded(context: ssl.SSLContext, files: CertificateFiles) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(files.ca)
    except (OSError, ValueError) as error:
        raise _unusable("ca", files.ca, error) from error
    try:
        context.load_cert_chain(files.certificate, files.key, password=_refuse_pass_phrase)
    except (OSError, ValueError) as error:
        raise _unusable("certificate", f"{files.certificate} with {files.key}", error) from error
    return context


def _refuse_pass_phrase() -> str:
    raise ValueError("the key has a pass phrase")


def _unusable(option: str, path: str, error: Exception) -> InvalidInput:
    return InvalidInput(f"[execution] {option}: {path} cannot be used: {error}", fields={option: str(error)})
