"""What a supervisor hears last decides whether an engine that leaves in order is left to do so."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine.beat import LEAVING_SECONDS, Beat
from engine.clock import boottime
from engine.coordination.authority import SessionAuthority

GRACE_SECONDS = 0.5


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read_fd, write_fd = os.pipe()
    yield read_fd, write_fd
    os.close(read_fd)
    os.close(write_fd)


async def said(pipe: tuple[int, int], authority: SessionAuthority | None) -> list[dict[str, Any]]:
    """All that is said by a beat that begins, ends and leaves."""
    beat = Beat(pipe[1], grace_seconds=GRACE_SECONDS)
    beat.acting_under(authority)
    running = asyncio.create_task(beat.run())
    await asyncio.sleep(0)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    beat.leaving()
    return [json.loads(line) for line in os.read(pipe[0], 65536).splitlines()]


async def test_an_engine_without_a_session_has_time_to_end(pipe: tuple[int, int]) -> None:
    begun = boottime()
    first, last = await said(pipe, None)
    assert first["until"] < begun + LEAVING_SECONDS / 2
    assert last["until"] >= begun + LEAVING_SECONDS


async def test_one_that_ends_under_its_authority_gets_no_more_than_that(pipe: tuple[int, int]) -> None:
    deadline = boottime() + 3.0
    authority = cast(SessionAuthority, SimpleNamespace(deadline=deadline, remaining_seconds=lambda: 3.0))
    (only,) = await said(pipe, authority)
    assert only["until"] == deadline
