"""Plugins as strangers write them, good and bad; loaded by name in the tests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

from oslo_config import cfg

from engine.plugin import Leadership, Scope, Singleton


class Good(Singleton):
    options: ClassVar[Sequence[Any]] = (cfg.IntOpt("limit", default=5, min=1, help="How many."),)

    async def run(self, leadership: Leadership) -> None:
        await asyncio.Event().wait()


class OnEachEngine(Good):
    scope = Scope.ENGINE


class OnEachShard(Good):
    scope = Scope.SHARD


class BlockingOnEachShard(Singleton):
    scope = Scope.SHARD

    def run(self, leadership: Leadership) -> None:
        leadership.stopping.wait()


class FromTheFuture(Good):
    contract = 99


class ClashingOptions(Good):
    options = (cfg.IntOpt("same", default=1, help="a"), cfg.StrOpt("same", default="x", help="b"))


class BadDefault(Good):
    options = (cfg.StrOpt("level", default="low", choices=["low"], help="a"), "not an option")


class WithoutRun(Singleton):
    """Abstract still."""


NotAClass: Any = object()
