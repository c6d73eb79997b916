"""Requests that kazoo 2.11 lacks, in the style of its own `protocol/serialization.py`.

`Multi` is a transaction that tells which operation failed (opcode 14); `MultiRead` and
`MultiChildren` read many nodes at once (opcode 22); `AddWatch` sets a persistent recursive watch
(opcode 106). The last three exist since ZooKeeper 3.6. Layouts follow zookeeper.jute and
MultiOperationRecord and MultiResponse of Apache ZooKeeper.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from kazoo.exceptions import EXCEPTIONS
from kazoo.protocol.serialization import (
    CheckVersion as KazooCheck,
)
from kazoo.protocol.serialization import (
    Create as KazooCreate,
)
from kazoo.protocol.serialization import (
    Create2 as KazooCreate2,
)
from kazoo.protocol.serialization import (
    Delete as KazooDelete,
)
from kazoo.protocol.serialization import (
    SetData as KazooSetData,
)
from kazoo.protocol.serialization import (
    int_struct,
    multiheader_struct,
    read_buffer,
    read_string,
    stat_struct,
    write_string,
)
from kazoo.security import ACL

from engine.coordination.operations import (
    Check,
    Create,
    Delete,
    Node,
    Operation,
    Reason,
    Rejected,
    Result,
    SetData,
    Stat,
)

_ERROR = -1
_DONE = multiheader_struct.pack(-1, True, -1)
_EPHEMERAL, _SEQUENCE, _CONTAINER = 1, 2, 4
_RECURSIVE_MODE = 1
_NO_NODE = -101
_GET_DATA, _GET_CHILDREN = 4, 8
_NOT_TRIED = (0, -2)
_ZXID = struct.Struct("!q")
_ZXID_BEFORE_BODY = 12
"""A reply begins with its header: xid (4 bytes), zxid (8), error (4); the body follows."""
_REASONS = {
    -110: Reason.EXISTS,
    -101: Reason.ABSENT,
    -103: Reason.VERSION,
    -111: Reason.NOT_EMPTY,
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """The server's error codes, one an operation, for a transaction that did not hold."""

    codes: tuple[int, ...]

    def error(self, operations: Sequence[Operation]) -> Rejected:
        # Those before the one that failed carry 0, those after it -2 (RuntimeInconsistency).
        index = next((at for at, code in enumerate(self.codes) if code not in _NOT_TRIED), 0)
        code = self.codes[index]
        reason = _REASONS.get(code, Reason.OTHER)
        detail = f"ZooKeeper's error {code}" if reason is Reason.OTHER else ""
        return Rejected(index, reason, operations[index].path, detail)


def stat_of(raw: Sequence[int]) -> Stat:
    """From the eleven numbers of the protocol's Stat (kazoo's ZnodeStat is such a sequence)."""
    czxid, mzxid, ctime, mtime, version, _, _, owner, _, children, pzxid = raw
    return Stat(version, czxid, mzxid, pzxid, ctime, mtime, owner, children)


def _read_stat(buffer: bytes, offset: int) -> tuple[Stat, int]:
    return stat_of(stat_struct.unpack_from(buffer, offset)), offset + stat_struct.size


@dataclass(frozen=True, slots=True)
class Multi:
    """A transaction, serialised beforehand, so that its size is known before it is sent."""

    payload: bytes = field(repr=False)
    operations: tuple[Operation, ...]

    type: ClassVar[int] = 14

    @classmethod
    def of(cls, operations: Sequence[Operation], acl: Sequence[ACL]) -> Multi:
        payload = bytearray()
        for operation in operations:
            record = _record(operation, acl)
            payload += multiheader_struct.pack(record.type, False, -1)
            payload += record.serialize()
        payload += _DONE
        return cls(bytes(payload), tuple(operations))

    def serialize(self) -> bytes:
        return self.payload

    def deserialize(self, buffer: bytes, offset: int) -> list[Result | Refusal]:
        """A result for each operation, or one `Refusal`. A list, since kazoo goes through it."""
        results: list[Result | Refusal] = []
        codes: list[int] = []
        # A write is answered with its own zxid; kazoo hands no header on, but all of the packet.
        (zxid,) = _ZXID.unpack_from(buffer, offset - _ZXID_BEFORE_BODY)
        while True:
            kind, done, _ = multiheader_struct.unpack_from(buffer, offset)
            offset += multiheader_struct.size
            if done:
                return [Refusal(tuple(codes))] if codes else results
            if kind == _ERROR:
                codes.append(int_struct.unpack_from(buffer, offset)[0])
                offset += int_struct.size
                continue
            path, stat = self.operations[len(results)].path, None
            if kind == KazooCreate.type:
                path, offset = read_string(buffer, offset)
            elif kind == KazooCreate2.type:  # what the server answers a container with
                path, offset = read_string(buffer, offset)
                stat, offset = _read_stat(buffer, offset)
            elif kind == KazooSetData.type:
                stat, offset = _read_stat(buffer, offset)
            results.append(Result(path, stat, zxid))


def single_create(operation: Create, acl: Sequence[ACL]) -> Any:
    """A create on its own (opcode 15), which unlike one in a transaction is answered with the stat."""
    flags = (_EPHEMERAL if operation.ephemeral else 0) | (_SEQUENCE if operation.sequence else 0)
    return KazooCreate2(operation.path, operation.data, acl, flags)


class _CreateContainer(KazooCreate):  # type: ignore[misc]
    """opcode 19, laid out as a create."""

    type = 19


def _record(operation: Operation, acl: Sequence[ACL]) -> Any:
    match operation:
        case Create(path, data, container=True):
            return _CreateContainer(path, data, acl, _CONTAINER)
        case Create(path, data, ephemeral, sequence):
            flags = (_EPHEMERAL if ephemeral else 0) | (_SEQUENCE if sequence else 0)
            return KazooCreate(path, data, acl, flags)
        case SetData(path, data, version):
            return KazooSetData(path, data, version)
        case Delete(path, version):
            return KazooDelete(path, version)
        case Check(path, version):
            return KazooCheck(path, version)


def _reads(kind: int, paths: Sequence[str]) -> bytes:
    payload = bytearray()
    for path in paths:
        payload += multiheader_struct.pack(kind, False, -1)
        payload += write_string(path) + b"\0"  # no watch
    payload += _DONE
    return bytes(payload)


def _next_answer(buffer: bytes, offset: int) -> tuple[bool, int] | None:
    """(does the node exist, offset of what follows); None after the last one."""
    kind, done, _ = multiheader_struct.unpack_from(buffer, offset)
    offset += multiheader_struct.size
    if done:
        return None
    if kind != _ERROR:
        return True, offset
    code = int_struct.unpack_from(buffer, offset)[0]
    if code != _NO_NODE:
        raise EXCEPTIONS[code]()
    return False, offset + int_struct.size


@dataclass(frozen=True, slots=True)
class MultiRead:
    """Read many nodes in one request; those that do not exist come as None."""

    paths: tuple[str, ...]

    type: ClassVar[int] = 22

    def serialize(self) -> bytes:
        return _reads(_GET_DATA, self.paths)

    @staticmethod
    def deserialize(buffer: bytes, offset: int) -> list[Node | None]:
        found: list[Node | None] = []
        while (there := _next_answer(buffer, offset)) is not None:
            exists, offset = there
            if not exists:
                found.append(None)
                continue
            data, offset = read_buffer(buffer, offset)
            stat, offset = _read_stat(buffer, offset)
            found.append(Node(data or b"", stat))
        return found


@dataclass(frozen=True, slots=True)
class MultiChildren:
    """List the children of many nodes in one request; none where the node does not exist."""

    paths: tuple[str, ...]

    type: ClassVar[int] = 22

    def serialize(self) -> bytes:
        return _reads(_GET_CHILDREN, self.paths)

    @staticmethod
    def deserialize(buffer: bytes, offset: int) -> list[list[str]]:
        found: list[list[str]] = []
        while (there := _next_answer(buffer, offset)) is not None:
            exists, offset = there
            names: list[str] = []
            if exists:
                count = int_struct.unpack_from(buffer, offset)[0]
                offset += int_struct.size
                for _ in range(count):
                    name, offset = read_string(buffer, offset)
                    names.append(name)
            found.append(names)
        return found


@dataclass(frozen=True, slots=True)
class AddWatch:
    """Watch `path` and all below it until the connection ends, also nodes that do not exist yet."""

    path: str

    type: ClassVar[int] = 106

    def serialize(self) -> bytes:
        return bytes(write_string(self.path)) + struct.pack("!i", _RECURSIVE_MODE)

    @staticmethod
    def deserialize(buffer: bytes, offset: int) -> bool:
        return True
