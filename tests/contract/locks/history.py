"""A history of locks: engines that take them at random, and a protected resource that records what they do.

Run as a module it is one engine process. The resource is a SQLite file: it remembers the greatest token
it has seen and refuses lesser ones; a test-only build of it (`Unfenced`) does not. `faults` judges
the record. Once in a while an engine says `writing` and dawdles between its check and its write, so that
whoever started it can freeze it there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sqlite3
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from engine.coordination.membership import join
from engine.coordination.session import SessionSettings, open_session
from engine.errors import EngineError, Fenced
from engine.locks.lock import Fence, LockRefused, Locks
from tests.contract.coordination.conftest import member, settings_for

SESSION_SECONDS = 2.0
RESOURCES = [f"res:{n}" for n in range(6)]
TASKS = 5
DAWDLES = 0.01
DAWDLE_SECONDS = 0.2

_SCHEMA = """
pragma journal_mode = wal;
create table if not exists resource (name text primary key, value int, written int, seen int);
create table if not exists effect (
    id integer primary key, resource text, kind text, token int, holder text, before int, after int
);
create table if not exists refusal (resource text, token int, holder text);
"""


@dataclass(frozen=True, slots=True)
class Effect:
    """What somebody did to the resource under `token`: a write, or two reads with time in between."""

    resource: str
    kind: str
    token: int
    holder: str
    before: int
    after: int


def faults(effects: Iterable[Effect]) -> list[str]:
    """Where mutual exclusion was broken, in the order of the record: tokens of writers never decrease, and
    under a shared lock nothing changes."""
    found = []
    last: dict[str, Effect] = {}
    for effect in effects:
        if effect.kind == "read":
            if effect.before != effect.after:
                found.append(f"{effect} changed under a shared lock")
            continue
        before = last.setdefault(effect.resource, effect)
        if effect.token < before.token:
            found.append(f"{effect} came after {before}")
        last[effect.resource] = effect
    return found


class Resource:
    """The protected resource. A writer needs a token that is not less than any seen before; a reader one
    that is not less than the last writer's."""

    def __init__(self, file: Path) -> None:
        self._database = sqlite3.connect(file, timeout=20, isolation_level=None)
        self._database.executescript(_SCHEMA)
        self._database.execute("pragma synchronous = off")
        for name in RESOURCES:
            self._database.execute("insert or ignore into resource values (?, 0, 0, 0)", (name,))

    def close(self) -> None:
        self._database.close()

    def write(self, name: str, token: int, holder: str) -> None:
        """Raises `Fenced`."""
        with self._transaction() as database:
            value, written, seen = self._row(name)
            if not self._admits(token, seen):
                database.execute("insert into refusal values (?, ?, ?)", (name, token, holder))
                database.execute("commit")
                raise Fenced(f"{name} has seen {seen}, this is {token}")
            database.execute(
                "update resource set value = ?, written = ?, seen = ? where name = ?",
                (value + 1, max(written, token), max(seen, token), name),
            )
            self._record(Effect(name, "write", token, holder, value, value + 1))

    def read(self, name: str, token: int) -> int:
        """Raises `Fenced`."""
        with self._transaction() as database:
            value, written, seen = self._row(name)
            if not self._admits(token, written):
                raise Fenced(f"{name} was written under {written}, this is {token}")
            database.execute("update resource set seen = ? where name = ?", (max(seen, token), name))
            return value

    def have_read(self, name: str, token: int, holder: str, before: int, after: int) -> None:
        with self._transaction():
            self._record(Effect(name, "read", token, holder, before, after))

    def effects(self) -> list[Effect]:
        rows = self._database.execute(
            "select resource, kind, token, holder, before, after from effect order by id"
        )
        return [Effect(*row) for row in rows]

    def acquisitions(self) -> int:
        """At least as many as this: those that one transaction took together count once."""
        (number,) = self._database.execute(
            "select count(*) from (select distinct holder, token from effect)"
        ).fetchone()
        return int(number)

    def count(self, table: str) -> int:
        (number,) = self._database.execute(f"select count(*) from {table}").fetchone()
        return int(number)

    def _admits(self, token: int, floor: int) -> bool:
        return token >= floor

    def _row(self, name: str) -> tuple[int, int, int]:
        value, written, seen = self._database.execute(
            "select value, written, seen from resource where name = ?", (name,)
        ).fetchone()
        return value, written, seen

    def _record(self, effect: Effect) -> None:
        self._database.execute(
            "insert into effect (resource, kind, token, holder, before, after) values (?, ?, ?, ?, ?, ?)",
            (effect.resource, effect.kind, effect.token, effect.holder, effect.before, effect.after),
        )

    @contextlib.contextmanager
    def _transaction(self):  # type: ignore[no-untyped-def]
        self._database.execute("begin immediate")
        try:
            yield self._database
            self._database.execute("commit")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("rollback")
            raise


class Unfenced(Resource):
    """The test-only build: it takes whatever comes."""

    def _admits(self, token: int, floor: int) -> bool:
        return True


class Engine:
    """One engine process; it goes on until it is killed."""

    def __init__(self, settings: SessionSettings, name: str, resource: Resource) -> None:
        self._settings = settings
        self._name = name
        self._resource = resource

    async def run(self) -> None:
        sessions = 0
        while True:
            sessions += 1
            with contextlib.suppress(EngineError):
                try:
                    await self._one_session(f"{self._name}-{os.getpid()}-{sessions}")
                except BaseExceptionGroup as group:
                    if group.split(EngineError)[1] is not None:
                        raise

    async def _one_session(self, name: str) -> None:
        async with open_session(self._settings) as session, join(session, member(name)):
            locks = Locks(session, engine=name, incarnation=1)
            async with session.authority.scope(), asyncio.TaskGroup() as group:
                for _ in range(TASKS):
                    group.create_task(self._work(locks, name))

    async def _work(self, locks: Locks, name: str) -> None:
        while True:
            keys = set(random.sample(RESOURCES, random.choice((1, 1, 2))))
            wait = random.choice((None, timedelta(seconds=1)))
            with contextlib.suppress(LockRefused, Fenced):
                if random.random() < 0.3:
                    async with locks.acquire(shared=keys, wait=wait) as fence:
                        await self._share(keys, fence, name)
                else:
                    async with locks.acquire(exclusive=keys, wait=wait) as fence:
                        self._write(keys, fence, name)
            await asyncio.sleep(0)

    async def _share(self, keys: set[str], fence: Fence, name: str) -> None:
        before = {key: self._resource.read(key, fence.token) for key in keys}
        await asyncio.sleep(random.uniform(0, 0.005))
        fence.check()
        for key, value in before.items():
            after = self._resource.read(key, fence.token)
            self._resource.have_read(key, fence.token, name, value, after)

    def _write(self, keys: set[str], fence: Fence, name: str) -> None:
        fence.check()
        if random.random() < DAWDLES:
            print("writing", flush=True)
            time.sleep(DAWDLE_SECONDS)
        for key in keys:
            self._resource.write(key, fence.token, name)


def main() -> None:
    hosts, cluster, name, file, build = sys.argv[1:]
    resource = {"fenced": Resource, "unfenced": Unfenced}[build](Path(file))
    settings = settings_for(hosts, cluster, timeout_seconds=SESSION_SECONDS)
    asyncio.run(Engine(settings, name, resource).run())


if __name__ == "__main__":
    main()
