"""Tidying up after commands: holds whose command is over or never came, and rows that are old.

A submitter that died between taking locks and inserting its row leaves a hold. Once the hold is old,
a row of its command's id is inserted that has failed already, and only then is the hold released: a
late insert meets that row and is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from engine.commands import store
from engine.commands.records import CommandRecord, CommandState
from engine.commands.services import Services
from engine.db.errors import Duplicate
from engine.plugin import ShardId

LOG = logging.getLogger(__name__)

ABANDONED = "abandoned"
"""The type of the row that stands for a submission that was never completed."""


async def sweep(services: Services, mine: Callable[[str], bool]) -> list[str]:
    """Release the holds of commands that have ended or never came; the ids of those commands.

    `mine(command_id)`: whether to look after this one; engines share the work by it.
    """
    views = [v for v in await services.locks.holders() if v.command is not None and mine(v.command)]
    held = {v.command: v for v in views if v.command is not None}
    if not held:
        return []
    ended, absent = await services.store.ended_or_absent(held.keys())
    latest = services.now() - timedelta(seconds=services.settings.sweep_seconds)
    for command_id in absent:
        since = held[command_id].since
        if since is not None and since <= latest and await _bury(services, command_id):
            ended.add(command_id)
    for command_id in ended:
        LOG.info("command=%s: its locks are swept", command_id)
        await services.locks.release_command(command_id)
    return sorted(ended)


async def _bury(services: Services, command_id: str) -> bool:
    now = services.now()
    row = _tombstone(command_id, services.shard_of(command_id), now)
    try:
        async with services.store.database.writing() as connection:
            await store.insert(connection, [row])
    except Duplicate:  # it has come after all
        return False
    return True


def _tombstone(command_id: str, shard: ShardId, now: datetime) -> CommandRecord:
    return CommandRecord(
        id=command_id,
        type=ABANDONED,
        arguments={},
        entity_kind="",
        entity_id="",
        state=CommandState.FAILED,
        shard=shard,
        epoch=None,
        engine=None,
        root_id=command_id,
        parent_id=None,
        parent_operation=None,
        locks={"exclusive": [], "shared": []},
        lock_token=None,
        lock_wait_until=None,
        user="",
        goal=None,
        undo_from=None,
        cancel_requested=False,
        quarantine_until=None,
        percent=0,
        message="",
        error="its submission was never completed",
        created_at=now,
        started_at=None,
        ended_at=now,
    )
