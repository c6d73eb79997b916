"""What a local cluster consists of, and the configuration files of its processes."""

from __future__ import annotations

import configparser
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.db.options import DATABASE_URL
from engine.errors import Conflict, InvalidInput
from engine.local_cluster.certificates import CertificateFiles
from engine.local_cluster.state import StateDirectory
from engine.ports import free_port

TICK_SECONDS = 0.5
MOST_ENGINES = 16
API = "api"
CALLERS = (*(f"engine-{number}" for number in range(1, MOST_ENGINES + 1)), API)
"""Who calls whom by name, where calls are made over TLS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The options of `engine up`. Port 0 means any free one."""

    engines: int = 3
    hosts: int = 24
    api_port: int = 8420
    zk_port: int = 21810
    host_port: int = 20000
    cluster: str = "default"
    session_seconds: float = 4.0
    tick_seconds: float = 3.0
    statistics_seconds: float = 15.0
    shards: int = 256
    partitioner: str = "cooperative"
    tls: bool = False
    database_url: str | None = None
    """None: an SQLite file in the state directory."""
    api_workers: int = 2
    metrics: bool = False
    overrides: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Options of the engines by group and name, on top of all others."""

    def __post_init__(self) -> None:
        bad = {}
        if self.database_url is not None and not re.match(DATABASE_URL, self.database_url):
            bad["database_url"] = f"{self.database_url} does not match {DATABASE_URL}"
        for name, low, high in (
            ("engines", 1, MOST_ENGINES),
            ("hosts", 0, 20000),
            ("api_port", 0, 65535),
            ("zk_port", 0, 65535),
            ("host_port", 0, 65535),
            ("api_workers", 1, 16),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                bad[name] = f"{value} is not within {low}..{high}"
        if bad:
            raise InvalidInput("; ".join(f"--{k.replace('_', '-')}: {v}" for k, v in bad.items()), fields=bad)


def require_free(port: int, what: str, option: str) -> None:
    """Raise `Conflict` when somebody listens on 127.0.0.1:`port`, naming the remedy."""
    if port == 0:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Conflict(
                f"port {port} of 127.0.0.1, meant for {what}, is in use: stop what uses it"
                f" (`ss -ltnp 'sport = :{port}'`), or choose another with {option} (0 = any free)"
            ) from error


def write_configuration(
    path: Path, layout: Layout, directory: StateDirectory, *, zookeeper: str, name: str | None = None
) -> Path:
    """Write the configuration of one engine (`name`), or of the API (None)."""
    parser = configparser.ConfigParser(interpolation=None)
    parser["engine"] = {"shared_values_file": str(path.with_suffix(".shared"))}
    if name is not None:
        parser["engine"].update(name=name, address="127.0.0.1")
        if layout.metrics:
            parser["engine"]["metrics_port"] = str(free_port())
    parser["coordination"] = {
        "hosts": zookeeper,
        "cluster": layout.cluster,
        "timeout_seconds": str(layout.session_seconds),
        "tick_seconds": str(TICK_SECONDS),
    }
    parser["database"] = {
        "url": layout.database_url or directory.database_url,
        "secrets_key_file": str(directory.secrets_key),
    }
    parser["sharding"] = {"shards": str(layout.shards), "partitioner": layout.partitioner}
    parser["hosts"] = {
        "tick_seconds": str(layout.tick_seconds),
        "statistics_seconds": str(layout.statistics_seconds),
    }
    if layout.tls:
        files = CertificateFiles(directory.simulator)
        parser["driver_vdsm"] = {
            "tls": "true",
            "ca_file": str(files.ca),
            "cert_file": str(files.certificate("engine")),
            "key_file": str(files.key("engine")),
        }
        caller = name or API
        parser["execution"] = {
            "ca": str(files.ca),
            "certificate": str(files.certificate(caller)),
            "key": str(files.key(caller)),
            "callers": API,
        }
    for group, options in layout.overrides.items():
        if not parser.has_section(group):
            parser.add_section(group)
        parser[group].update(options)
    with path.open("w") as file:
        parser.write(file)
    path.chmod(0o600)
    return path
