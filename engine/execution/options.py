"""`[execution]`: where an engine takes calls from other engines, and how many."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any, Self

from oslo_config import cfg

from engine.errors import InvalidInput

GROUP = "execution"
LOCAL = ("host", "port", "certificate", "key", "ca")
"""These belong to one machine: the cluster's configuration never sets them."""

OPTS = [
    cfg.StrOpt(
        "host",
        default="127.0.0.1",
        help="Address on which this engine takes calls from the others. Anything but a loopback address"
        " needs `certificate`, `key` and `ca`. Where it stands for all addresses (0.0.0.0 or ::), the"
        " others are told `[engine] address`.",
    ),
    cfg.PortOpt("port", default=0, help="TCP port for calls; 0 takes any free one. The others are told it."),
    cfg.StrOpt(
        "certificate",
        help="PEM file of this engine's certificate, with which it calls and is called. It must name the"
        " engine (`[engine] name`) as a DNS name among its alternative names.",
    ),
    cfg.StrOpt("key", help="PEM file of the key of `certificate`."),
    cfg.StrOpt("ca", help="PEM file of the authorities that sign the engines' certificates."),
    cfg.ListOpt(
        "callers",
        mutable=True,
        default=[],
        help="Names in certificates that may call although no member is called so, as those of machines"
        " on which only the API runs.",
    ),
    cfg.IntOpt(
        "concurrent",
        mutable=True,
        default=200,
        min=1,
        max=10000,
        help="How many calls this engine carries out at once; further ones are refused.",
    ),
    cfg.IntOpt(
        "concurrent_per_caller",
        mutable=True,
        default=64,
        min=1,
        max=10000,
        help="How many of them may come from one caller, so that one cannot use them all.",
    ),
    cfg.IntOpt(
        "most_bytes",
        mutable=True,
        default=1024 * 1024,
        min=1024,
        max=64 * 1024 * 1024,
        help="How large the arguments or the result of one call may be, in bytes of JSON.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """PEM files for mutual TLS between the engines."""

    certificate: str
    key: str
    ca: str


@dataclass(slots=True, kw_only=True)
class ExecutionSettings:
    """`[execution]`; limits and callers are read at each use, since they may change.

    Raises `InvalidInput` where calls could be read or made by anybody."""

    host: str = "127.0.0.1"
    port: int = 0
    files: CertificateFiles | None = None
    callers: frozenset[str] = frozenset()
    concurrent: int = 200
    concurrent_per_caller: int = 64
    most_bytes: int = 1024 * 1024

    def __post_init__(self) -> None:
        if self.files is None and not _loopback(self.host):
            raise InvalidInput(
                f"[execution] host = {self.host} is reached by other machines: that needs certificate,"
                " key and ca, for TLS with both sides known to each other",
                fields={"host": "without TLS only a loopback address, as 127.0.0.1, is allowed"},
            )

    @classmethod
    def from_values(cls, group: Any) -> Self:
        """From the values of `[execution]`."""
        given = {name: group[name] for name in ("certificate", "key", "ca")}
        missing = sorted(name for name, value in given.items() if not value)
        if missing and len(missing) < len(given):
            raise InvalidInput(
                f"[execution] {', '.join(missing)} not set: TLS needs certificate, key and ca",
                fields=dict.fromkeys(missing, "is required with the other two"),
            )
        return cls(
            host=group["host"],
            port=group["port"],
            files=None if missing else CertificateFiles(**given),
            callers=frozenset(group["callers"]),
            concurrent=group["concurrent"],
            concurrent_per_caller=group["concurrent_per_caller"],
            most_bytes=group["most_bytes"],
        )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
