"""The witness's log: what each simulated host was asked, when, by which engine, under which epoch.

One JSON line a request, `{"t", "host", "engine", "epoch", "verb", "id", "op"}` (and `about`, the VM),
one a connection opened or closed, `{"t", "host", "connection": "opened"|"closed", "peer"}`, a VM that
changed, `{"t", "host", "vm", "status"}`, and a machine switched on or off, `{"t", "host", "power"}`;
`t` is CLOCK_BOOTTIME in seconds. Each process appends to a file of its own and a host lives in one
process, so a host's lines are in the order in which they happened; `read_log` merges the files of the
running boot. A line is with the kernel before its request is carried out (3 us each, so nothing is
buffered): whatever an engine learned from a host is in the log already, and no death of a process can
lose it.
"""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson


def boottime() -> float:
    """Seconds since boot, suspended time included: one clock for all processes of a machine."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _boot() -> str:
    """Which boot this is: times of another one must not be merged with ours."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]


@dataclass(frozen=True, slots=True)
class Request:
    """One request as a host received it. Without an engine's headers `engine` is "" and `epoch` None."""

    t: float
    host: int
    engine: str
    epoch: int | None
    verb: str
    id: str
    op: str
    vm: str = ""
    """The VM that it is about; "" where it is about none."""


@dataclass(frozen=True, slots=True)
class ConnectionChange:
    """A connection to a host began or ended. `peer` is the client's port."""

    t: float
    host: int
    opened: bool
    peer: int


@dataclass(frozen=True, slots=True)
class VmChange:
    """A VM on a host is in this status from now on: the agent's word, or `GONE`."""

    t: float
    host: int
    vm: str
    status: str


@dataclass(frozen=True, slots=True)
class PowerChange:
    """A machine was switched on or off, whoever asked for it; not told where it was so already."""

    t: float
    host: int
    on: bool


GONE = "Gone"
"""The host knows the VM no more: it was destroyed, or it died with its machine."""

Entry = Request | ConnectionChange | VmChange | PowerChange


class WitnessLog:
    """Appends to one file of `directory`, or only counts when there is none.

    `limit_bytes` bounds the file: when it is full it becomes `<name>.old`, replacing the one before.
    Writing raises OSError (a full disk must not make a silent witness).
    """

    def __init__(self, directory: Path | None, *, limit_bytes: int = 1 << 30) -> None:
        self.requests = 0
        self._path: Path | None = None
        self._fd = -1
        self._limit = limit_bytes
        self._written = 0
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            self._path = directory / f"{_boot()}-{int(boottime() * 1000):013d}-{os.getpid()}.jsonl"
            self._open()

    def request(
        self,
        host: int,
        *,
        engine: str,
        epoch: int | None,
        verb: object,
        request_id: object,
        op: str,
        about: object = None,
    ) -> None:
        """A host was asked. `verb`, `request_id` and `about` (the VM) are whatever the client sent."""
        self.requests += 1
        if self._fd < 0:
            return
        entry: dict[str, object] = {
            "t": boottime(),
            "host": host,
            "engine": engine,
            "epoch": epoch,
            "verb": _text(verb),
            "id": _text(request_id),
            "op": op,
        }
        if about is not None:
            entry["about"] = _text(about)
        self._add(entry)

    def connection(self, host: int, *, opened: bool, peer: int) -> None:
        if self._fd >= 0:
            state = "opened" if opened else "closed"
            self._add({"t": boottime(), "host": host, "connection": state, "peer": peer})

    def vm(self, host: int, vm_id: str, status: str) -> None:
        if self._fd >= 0:
            self._add({"t": boottime(), "host": host, "vm": vm_id, "status": status})

    def power(self, host: int, *, on: bool) -> None:
        if self._fd >= 0:
            self._add({"t": boottime(), "host": host, "power": "on" if on else "off"})

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _add(self, entry: dict[str, object]) -> None:
        data = orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)
        self._written += len(data)
        while data:
            data = data[os.write(self._fd, data) :]
        if self._written >= self._limit and self._path is not None:
            os.close(self._fd)
            os.replace(self._path, self._path.with_suffix(".jsonl.old"))
            self._open()

    def _open(self) -> None:
        assert self._path is not None
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._written = os.fstat(self._fd).st_size


def read_log(directory: Path) -> Iterator[Entry]:
    """All entries of this boot in the order of time; a host's own entries keep their order exactly.

    A last line that is cut short (the simulator was killed) is left out. Raises ValueError for
    anything else that is not a line of ours: a witness does not skip what it cannot read.
    """
    files = [*directory.glob(f"{_boot()}-*.jsonl.old"), *directory.glob(f"{_boot()}-*.jsonl")]
    return heapq.merge(*map(_entries, files), key=lambda entry: entry.t)


def read_requests(directory: Path) -> list[Request]:
    """The requests alone, in the order of time."""
    return [entry for entry in read_log(directory) if isinstance(entry, Request)]


def _entries(path: Path) -> Iterator[Entry]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield _entry(orjson.loads(line))
            except (KeyError, TypeError, orjson.JSONDecodeError) as error:
                raise ValueError(f"{path}, line {number}: not an entry of the log: {error!r}") from error


def _entry(line: dict[str, object]) -> Entry:
    if "connection" in line:
        opened = line["connection"] == "opened"
        return ConnectionChange(_float(line["t"]), _int(line["host"]), opened, _int(line["peer"]))
    if "vm" in line:
        return VmChange(_float(line["t"]), _int(line["host"]), str(line["vm"]), str(line["status"]))
    if "power" in line:
        return PowerChange(_float(line["t"]), _int(line["host"]), line["power"] == "on")
    epoch = line["epoch"]
    return Request(
        t=_float(line["t"]),
        host=_int(line["host"]),
        engine=str(line["engine"]),
        epoch=None if epoch is None else _int(epoch),
        verb=str(line["verb"]),
        id=str(line["id"]),
        op=str(line["op"]),
        vm=str(line.get("about", "")),
    )


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _float(value: object) -> float:
    if not isinstance(value, float | int):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def _text(value: object) -> str:
    return value if isinstance(value, str) else repr(value)
