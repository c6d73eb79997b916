"""The suite for authors finds what it is there to find."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from oslo_config import cfg

from engine.plugin import Leadership, Singleton
from engine.testing.singletons import SingletonContract


class Returns(Singleton):
    async def run(self, leadership: Leadership) -> None:
        return None


class Raises(Singleton):
    async def run(self, leadership: Leadership) -> None:
        raise RuntimeError("no such luck")


class IgnoresCancellation(Singleton):
    async def run(self, leadership: Leadership) -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()


class LeavesATask(Singleton):
    async def run(self, leadership: Leadership) -> None:
        self.left = asyncio.create_task(asyncio.Event().wait(), name="left behind")
        await asyncio.Event().wait()


class ActsWithoutLooking(Singleton):
    async def run(self, leadership: Leadership) -> None:
        while True:
            await self.context.events.record("still", "here")
            await asyncio.sleep(0.01)


class SilentOption(Singleton):
    options: ClassVar[Sequence[Any]] = (cfg.IntOpt("limit", default=1),)

    async def run(self, leadership: Leadership) -> None:
        await asyncio.Event().wait()


class OldContract(SilentOption):
    contract = 0


def suite_of(kind: type[Singleton]) -> SingletonContract:
    class Suite(SingletonContract):
        plugin = kind
        stop_seconds = 0.05
        settle_seconds = 0.05

    return Suite()


@pytest.mark.parametrize(
    ("kind", "clause", "told"),
    [
        (Returns, SingletonContract.test_runs_until_it_is_cancelled, "it returned"),
        (Raises, SingletonContract.test_runs_until_it_is_cancelled, "no such luck"),
        (
            IgnoresCancellation,
            SingletonContract.test_ends_promptly_when_it_is_cancelled_at_its_first_await,
            "still alive",
        ),
        (LeavesATask, SingletonContract.test_runs_until_it_is_cancelled, "left behind"),
        (ActsWithoutLooking, SingletonContract.test_touches_nothing_after_its_leadership_has_ended, "still"),
        (SilentOption, SingletonContract.test_every_option_says_what_it_is_for, "limit"),
        (OldContract, SingletonContract.test_states_the_contract_version_and_a_scope, "contract"),
    ],
)
def test_a_plugin_that_breaks_a_clause_fails_it(
    kind: type[Singleton], clause: Callable[[SingletonContract], None], told: str
) -> None:
    with pytest.raises(AssertionError, match=told):
        clause(suite_of(kind))


class Blocks(Singleton):
    def run(self, leadership: Leadership) -> None:
        while not leadership.stopping.wait(60):
            pass


class BlocksForGood(Singleton):
    release = threading.Event()

    def run(self, leadership: Leadership) -> None:
        self.release.wait(30)


class TestOfAPlainFunction(SingletonContract):
    plugin = Blocks


def test_a_plain_function_that_never_looks_at_its_stopping_fails() -> None:
    with pytest.raises(AssertionError, match="still alive"):
        suite_of(BlocksForGood).test_runs_until_it_is_cancelled()
    BlocksForGood.release.set()
