"""`/v1/locks`: who holds what in the cluster now, and how an operator takes it away.

Read from ZooKeeper at each request. A release by force fences the old holder: a command's row loses its
lock token, in the transaction that also writes the audit event, before its nodes are deleted; a lock of
an engine's session has its event first, and with the nodes every guard of its holder is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from falcon.asgi import Request, Response

from engine.api.commands import user_of
from engine.api.dependencies import Dependencies
from engine.api.fields import Fields, text
from engine.api.http import EngineRequest, answer, next_link, page_of, read_json, take_paging
from engine.commands import store
from engine.db.events import record
from engine.errors import Conflict, EngineError, NotFound
from engine.locks.holds import HoldView
from engine.locks.lock import Locks

LOG = logging.getLogger(__name__)


def lock_document(held: HoldView) -> dict[str, Any]:
    return {
        "id": held.nonce,
        "keys": [{"key": key, "mode": mode} for key, mode in held.modes.items()],
        "lifetime": "session" if held.of_session else "command",
        "engine": held.engine,
        "command": held.command,
        "user": held.user,
        "since": held.since,
        "reason": held.reason,
        "token": held.token,
    }


class LockList:
    def __init__(self, locks: Callable[[], Awaitable[Locks]]) -> None:
        self._locks = locks

    async def on_get(self, request: Request, response: Response) -> None:
        with Fields(request.params) as fields:
            limit, marker = take_paging(fields)
            key = fields.take("key", text, default=None)
        held = await (await self._locks()).holders()
        wanted = [view for view in held if key is None or key in view.modes]
        page, following = page_of(wanted, lambda view: view.nonce, limit=limit, marker=marker)
        documents = [lock_document(view) for view in page]
        answer(response, {"locks": documents, "next": next_link(request, following)})


class LockResource:
    """`lock` is the id of a hold, or a key that one holds."""

    def __init__(self, locks: Callable[[], Awaitable[Locks]]) -> None:
        self._locks = locks

    async def on_get(self, request: Request, response: Response, lock: str) -> None:
        with Fields(request.params):
            pass
        locks = await self._locks()
        held = await find(locks, lock)
        waiting = {key: await locks.waiters(key) for key in held.modes}
        answer(response, {**lock_document(held), "waiting": waiting})


class Release:
    """Takes a lock away from its holder, who is fenced, not merely told."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies

    async def on_post(self, request: EngineRequest, response: Response, lock: str) -> None:
        with Fields(await read_json(request)) as fields:
            fields.take("confirm", _confirmed)
            reason = fields.take("reason", text, default="")
        locks = await self._dependencies.locks()
        held = await find(locks, lock)
        await self._strip(request, held, reason)
        released = await locks.release_by_force(held)
        answer(response, {**lock_document(held), "released": released})

    async def _strip(self, request: EngineRequest, held: HoldView, reason: str) -> None:
        """The audit event, and with it the end of a command's right to write."""
        user = user_of(request)
        shard = None
        async with self._dependencies.database.writing() as connection:
            if held.command is not None:
                shard = await store.strip(connection, held.command)
            await record(
                connection,
                "lock_released_by_force",
                f"{user or 'an operator'} took {', '.join(held.modes)} from {held.holder}",
                data={
                    "lock": held.nonce,
                    "keys": dict(held.modes),
                    "engine": held.engine,
                    "command": held.command,
                    "user": user,
                    "reason": reason,
                    "request": request.request_id,
                },
            )
        if shard is not None:
            try:
                await self._dependencies.cluster.bump(shard)
            except EngineError as error:  # its owner looks by itself, too
                LOG.warning("request=%s shard=%s was not told: %s", request.request_id, shard, error)


async def find(locks: Locks, name: str) -> HoldView:
    """The hold with this id, or the one that has this key. Raises `NotFound`, `Conflict`."""
    found = [view for view in await locks.holders() if name == view.nonce or name in view.modes]
    if not found:
        raise NotFound(f"nobody holds {name[:100]!r}: it is neither the id of a lock nor a locked key")
    if len(found) > 1:
        ids = ", ".join(view.nonce for view in found)
        raise Conflict(f"{name} is shared by {len(found)} holders; name one by its id: {ids}")
    return found[0]


def _confirmed(value: Any) -> bool:
    if value is not True:
        raise ValueError("must be true: the holder loses its lock in the middle of what it does")
    return True
