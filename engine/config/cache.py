"""The last known values of the shared configuration, for a start while ZooKeeper is away.

One JSON file, 0600, replaced atomically after each successful read. A file that somebody else owns
or may write is refused: it could plant values. Used by the driver only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from engine.config import files
from engine.errors import EngineError


class CacheUnusable(EngineError):
    """There is no cached copy that may be used; the message says why."""


@dataclass(frozen=True, slots=True)
class CachedValues:
    """What was read from `source`, and when. `values`: `<group>/<option>` to the node's bytes."""

    source: str
    read_at: datetime
    values: Mapping[str, bytes]


def default_file(source: str, environment: Mapping[str, str]) -> Path | None:
    """Where the copy of `source` belongs for this user; None where the user has no place for one.

    CACHE_DIRECTORY is what systemd gives a service that has `CacheDirectory=`; else the XDG cache.
    """
    if directories := environment.get("CACHE_DIRECTORY"):
        directory = Path(directories.split(":")[0])
    elif xdg := environment.get("XDG_CACHE_HOME"):
        directory = Path(xdg, "engine")
    elif home := environment.get("HOME"):
        directory = Path(home, ".cache", "engine")
    else:
        return None
    return directory / f"config-{hashlib.sha256(source.encode()).hexdigest()[:16]}.json"


def save(file: Path, cached: CachedValues) -> None:
    """Replace the file atomically. Raises `OSError`."""
    content = {
        "source": cached.source,
        "read_at": cached.read_at.isoformat(),
        "values": {name: base64.b64encode(data).decode() for name, data in cached.values.items()},
    }
    files.replace(file, json.dumps(content), durable=True)


def load(file: Path, source: str) -> CachedValues:
    """Read the copy of `source`. Raises `CacheUnusable`."""
    try:
        with file.open("rb") as stream:
            status = os.fstat(stream.fileno())
            content = stream.read()
    except FileNotFoundError:
        raise CacheUnusable(f"there is no cached copy at {file}") from None
    except OSError as error:
        raise CacheUnusable(f"the cached copy {file} cannot be read: {error.strerror}") from error
    if status.st_uid not in (os.geteuid(), 0) or stat.S_IMODE(status.st_mode) & 0o077:
        raise CacheUnusable(f"the cached copy {file} is open to others; it should be ours alone, mode 0600")
    try:
        cached = _parse(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheUnusable(f"the cached copy {file} is damaged ({type(error).__name__}: {error})") from error
    if cached.source != source:
        raise CacheUnusable(f"the cached copy {file} is of {cached.source}, not of {source}")
    return cached


def _parse(content: bytes) -> CachedValues:
    fields = json.loads(content)
    read_at = datetime.fromisoformat(fields["read_at"])
    if read_at.tzinfo is None:
        raise ValueError("read_at has no time zone")
    values = {str(name): base64.b64decode(data, validate=True) for name, data in fields["values"].items()}
    return CachedValues(str(fields["source"]), read_at, values)
