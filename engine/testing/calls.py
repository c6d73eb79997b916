"""Calls of tasks without a cluster, for tests of what makes them.

calls = MemoryCalls(members=["a", "b"])
calls.answers["host_reach"] = lambda engine, key, arguments: {"reached": engine == "b"}
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import EngineError, NotFound
from engine.plugin import Answer, EngineId, Json, OnMember, ShardId, Target

Answering = Callable[[EngineId | None, str | None, Json], Any]
"""Given the engine that is asked (None: the owner of the key), the key and the arguments: the result, or an
`EngineError` raised."""


@dataclass(frozen=True, slots=True)
class Called:
    """One call that was made."""

    task: str
    engine: EngineId | None
    key: str | None
    arguments: Json


class MemoryCalls:
    """See `engine.plugin.Calls`. `made` lists what was called; `owners` and `shards` say who owns
    what."""

    def __init__(self, *, members: Sequence[str] = ()) -> None:
        self.members = [EngineId(name) for name in members]
        self.answers: dict[str, Answering] = {}
        self.made: list[Called] = []
        self.owners: dict[str, EngineId] = {}
        self.shards: dict[EngineId, frozenset[ShardId]] = {}

    def owner_of(self, key: str) -> EngineId | None:
        return self.owners.get(key)

    def owned_by(self, engine: EngineId) -> frozenset[ShardId]:
        return self.shards.get(engine, frozenset())

    async def call(
        self, task: str, arguments: Json | None = None, *, on: Target, timeout_seconds: float | None = None
    ) -> Any:
        if isinstance(on, OnMember):
            return self._answer(task, on.engine, None, arguments or {})
        return self._answer(task, None, on.key, arguments or {})

    async def call_all(
        self, task: str, arguments: Json | None = None, *, timeout_seconds: float | None = None
    ) -> AsyncGenerator[Answer]:
        for engine in self.members:
            yield self._contained(task, engine, None, arguments or {})

    async def map(
        self,
        task: str,
        keys: Collection[str],
        arguments: Json | None = None,
        *,
        timeout_seconds: float | None = None,
    ) -> AsyncGenerator[Answer]:
        for key in keys:
            yield self._contained(task, None, key, arguments or {})

    def _contained(self, task: str, engine: EngineId | None, key: str | None, arguments: Json) -> Answer:
        try:
            return Answer(engine, key, result=self._answer(task, engine, key, arguments))
        except EngineError as error:
            return Answer(engine, key, error=error)

    def _answer(self, task: str, engine: EngineId | None, key: str | None, arguments: Json) -> Any:
        self.made.append(Called(task, engine, key, arguments))
        if engine is not None and engine not in self.members:
            raise NotFound(f"there is no member {engine}")
        if task not in self.answers:
            raise NotFound(f"there is no task {task}")
        return self.answers[task](engine, key, arguments)
