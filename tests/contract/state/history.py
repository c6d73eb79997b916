"""A process that uses a map at random and writes down what it asked and what it was answered.

Run as a module it goes on until it is killed; it breaks its own connection now and then. Builds: `true`;
`stale` reads without being fresh; `blind` swaps without naming the version. Each line of its file is
written before the operation, or after it, and never changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import os
import random
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from engine.coordination.session import Session, open_session
from engine.errors import Conflict, EngineError, OutcomeUnknown
from engine.plugin import ClusteredMap
from engine.state.maps import Maps
from tests.contract.coordination.conftest import settings_for
from tests.contract.state.conftest import Room
from tests.contract.state.linearizability import Operation

SESSION_SECONDS = 2.0
KEYS = 8
TASKS = 4
CUT_SECONDS = (0.2, 1.0)
_KINDS = ("put", "put_if_absent", "replace", "remove", "swap", "swap", "read", "read", "read")


class Scribe:
    """Writes the record of one process."""

    def __init__(self, file: Path) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._numbers = itertools.count()

    def asked(self, key: str, kind: str, value: int | None, expected: int | None) -> int:
        number = next(self._numbers)
        self._write([number, time.monotonic(), key, kind, value, expected])
        return number

    def answered(self, number: int, outcome: str, answer: bool | int | None = None) -> None:
        self._write([number, time.monotonic(), outcome, answer])

    def _write(self, line: list[object]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")


def read(files: Iterable[Path]) -> list[Operation]:
    """All operations that may have happened."""
    found: list[Operation] = []
    for file in files:
        asked: dict[int, list[object]] = {}
        answers: dict[int, list[object]] = {}
        for line in file.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # killed in the middle of a line
                number, *rest = json.loads(line)
                (answers if number in asked else asked)[number] = rest
        for number, (since, key, kind, value, expected) in asked.items():
            until, outcome, answer = answers.get(number, [math.inf, "unknown", None])
            if outcome == "unknown":
                until = math.inf
            if outcome != "not done":
                found.append(Operation(key, kind, value, expected, answer, since, until))  # type: ignore[arg-type]
    return found


class Process:
    """Sessions one after the other."""

    def __init__(self, hosts: str, cluster: str, number: int, scribe: Scribe, build: str) -> None:
        self._settings = settings_for(hosts, cluster, timeout_seconds=SESSION_SECONDS)
        self._values = itertools.count(number * 10**9 + os.getpid() * 10**4)
        self._scribe = scribe
        self._build = build

    async def run(self) -> None:
        maps = Maps()
        while True:
            try:
                async with (
                    open_session(self._settings) as session,
                    maps.serving(session),
                    maps.open("history", Room) as rooms,
                    asyncio.TaskGroup() as group,
                ):
                    group.create_task(self._cut(session))
                    for _ in range(TASKS):
                        group.create_task(self._work(session, rooms))
            except* EngineError:
                pass

    async def _cut(self, session: Session) -> None:
        while True:
            await asyncio.sleep(random.uniform(*CUT_SECONDS))
            session._channel.cut()

    async def _work(self, session: Session, rooms: ClusteredMap[Room]) -> None:
        while True:
            if session.ended.is_set():
                raise EngineError("the session is over")
            await self._one(rooms, f"k{random.randrange(KEYS)}", random.choice(_KINDS))
            await asyncio.sleep(random.uniform(0, 0.004))

    async def _one(self, rooms: ClusteredMap[Room], key: str, kind: str) -> None:
        seen = rooms.versioned(key)
        if kind == "swap" and seen is None:
            kind = "put_if_absent"
        value = None if kind in ("read", "remove") else next(self._values)
        expected = seen.value.guests if kind == "swap" and seen is not None else None
        number = self._scribe.asked(key, kind, value, expected)
        try:
            answer = await self._do(rooms, key, kind, value, seen.version if seen is not None else None)
        except OutcomeUnknown:
            self._scribe.answered(number, "unknown")
        except Conflict:
            self._scribe.answered(number, "done", False)
        except EngineError:
            self._scribe.answered(number, "not done")
            await asyncio.sleep(0.02)
        else:
            self._scribe.answered(number, "done", answer)

    async def _do(
        self, rooms: ClusteredMap[Room], key: str, kind: str, value: int | None, version: int | None
    ) -> bool | int | None:
        room = Room(value or 0)
        match kind:
            case "put":
                await rooms.put(key, room)
                return True
            case "put_if_absent":
                return await rooms.put_if_absent(key, room)
            case "replace":
                return await rooms.replace(key, room)
            case "remove":
                return await rooms.remove(key)
            case "swap":
                await rooms.put(key, room, if_version=None if self._build == "blind" else version)
                return True
        if self._build != "stale":
            await rooms.fresh()
        found = rooms.get(key)
        return None if found is None else found.guests


def main() -> None:
    hosts, cluster, number, file, build = sys.argv[1:]
    asyncio.run(Process(hosts, cluster, int(number), Scribe(Path(file)), build).run())


if __name__ == "__main__":
    main()
