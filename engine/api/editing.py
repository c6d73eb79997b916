"""From a request that adds, changes or removes an entity to an edit: one way for hosts, VMs and clusters.

The answer is the entity, at once; the command that stands for the edit is named in `X-Command-Id`.
Heeds `Idempotency-Key`, as actions do: asked again, nothing is done again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from falcon.asgi import Request, Response

from engine.api.commands import idempotency_key, user_of, without_secrets
from engine.api.entities import if_matching
from engine.commands.edits import Edit, Edits, HasId
from engine.commands.store import Connection

T = TypeVar("T", bound=HasId)


class Editor:
    """Of one kind of entity: 'host', 'vm' or 'host_cluster'; `noun` is what commands call it."""

    def __init__(self, edits: Edits, kind: str, noun: str | None = None) -> None:
        self._edits = edits
        self._kind = kind
        self._noun = noun or kind

    async def add(
        self,
        request: Request,
        response: Response,
        asked: Mapping[str, Any],
        write: Callable[[Connection], Awaitable[T]],
        read: Callable[[str], Awaitable[T]],
    ) -> T:
        edit = Edit(type=f"add_{self._noun}", kind=self._kind, arguments=without_secrets(asked))
        id, entity = await self._perform(request, response, edit, write)
        return entity if entity is not None else await read(id)

    async def change(
        self,
        request: Request,
        response: Response,
        id: str,
        changes: Mapping[str, Any],
        write: Callable[[Connection], Awaitable[T]],
        read: Callable[[str], Awaitable[T]],
    ) -> T:
        arguments = without_secrets(changes)
        edit = Edit(type=f"update_{self._noun}", kind=self._kind, id=id, arguments=arguments)
        _id, entity = await self._perform(request, response, edit, write)
        return entity if entity is not None else await read(id)

    async def remove(
        self,
        request: Request,
        response: Response,
        id: str,
        write: Callable[[Connection], Awaitable[T]],
    ) -> T | None:
        """What was removed; None where that was done before."""
        edit = Edit(type=f"remove_{self._noun}", kind=self._kind, id=id, arguments={})
        return (await self._perform(request, response, edit, write))[1]

    async def _perform(
        self,
        request: Request,
        response: Response,
        edit: Edit,
        write: Callable[[Connection], Awaitable[T]],
    ) -> tuple[str, T | None]:
        with if_matching():
            edited = await self._edits.perform(
                edit, write, user=user_of(request), key=idempotency_key(request)
            )
        response.set_header("X-Command-Id", edited.command.id)
        return edited.command.entity_id, edited.entity
