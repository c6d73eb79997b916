"""What is read from ZooKeeper and what is asked of it, as plain data.

A `Node` is bytes and a `Stat`; all values of ours are JSON. A transaction is a list of `Create`,
`SetData`, `Delete` and `Check`, carried out together or not at all; a refusal names the first
operation that did not hold.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import orjson

from engine.errors import EngineError


class MalformedNode(EngineError):
    """A node does not hold what it should: no JSON, or JSON of another shape."""


@dataclass(frozen=True, slots=True)
class Stat:
    """A node's metadata. `mzxid` orders all changes of data in the whole tree."""

    version: int
    czxid: int
    mzxid: int
    pzxid: int
    ctime_ms: int
    mtime_ms: int
    ephemeral_owner: int
    children: int


@dataclass(frozen=True, slots=True)
class Node:
    """A node as it was at one moment."""

    data: bytes
    stat: Stat

    def json(self) -> Any:
        """The decoded value. Raises `MalformedNode` when there is none."""
        try:
            return orjson.loads(self.data)
        except orjson.JSONDecodeError as error:
            shown = self.data[:60].decode("utf-8", "backslashreplace")
            raise MalformedNode(f"the node holds no JSON ({error}): {shown!r}") from error


@dataclass(frozen=True, slots=True)
class Create:
    """Create `path`, whose parent exists. `sequence` appends ten digits to its name.

    A `container` is persistent until it has had children and has none any more: then the server
    removes it, within a minute or so.
    """

    path: str
    data: bytes = b""
    ephemeral: bool = False
    sequence: bool = False
    container: bool = False


@dataclass(frozen=True, slots=True)
class SetData:
    """Replace the data of `path` where its version is `version` (-1: whatever it is)."""

    path: str
    data: bytes
    version: int = -1


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete `path` where its version is `version` and it has no children."""

    path: str
    version: int = -1


@dataclass(frozen=True, slots=True)
class Check:
    """Hold the transaction to `path` having `version` (-1: existing at all)."""

    path: str
    version: int = -1


Operation = Create | SetData | Delete | Check


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one operation of a transaction: its path (with its sequence number) and, for
    `SetData`, the new `stat`; the server tells none for most others. `zxid` is the transaction's
    number, and so the czxid of all that it created."""

    path: str
    stat: Stat | None
    zxid: int


class Reason(enum.Enum):
    """Why a transaction was refused."""

    EXISTS = "exists already"
    ABSENT = "does not exist"
    VERSION = "has another version"
    NOT_EMPTY = "has children"
    OTHER = "was refused"


class Rejected(EngineError):
    """A transaction did not hold and changed nothing; `index` is the operation that failed."""

    def __init__(self, index: int, reason: Reason, path: str, detail: str = "") -> None:
        super().__init__(f"{path} {reason.value}" + (f" ({detail})" if detail else ""))
        self.index = index
        self.reason = reason
        self.path = path
