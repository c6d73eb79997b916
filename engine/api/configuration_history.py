"""What may be configured, what has been, and how far the processes have come with it.

`/v1/config/options`, `/v1/config/history`, `/v1/config/rollback`, `/v1/config/status`.
"""

from __future__ import annotations

from typing import Any

from falcon.asgi import Request, Response

from engine.api.commands import user_of
from engine.api.configuration import MASK, ConfigurationDesk, changed_document
from engine.api.fields import Fields, integer, text
from engine.api.http import EngineRequest, answer, next_link, page_of, read_json, take_paging
from engine.config.catalogue import Declared

_MOST = 2**31


class Options:
    """Every option that this installation has, local ones included."""

    def __init__(self, desk: ConfigurationDesk) -> None:
        self._desk = desk

    async def on_get(self, request: Request, response: Response) -> None:
        with Fields(request.params) as fields:
            limit, marker = take_paging(fields)
            group = fields.take("group", text, default=None)
        declared = [option for option in self._desk.catalogue if group in (None, option.group)]
        page, following = page_of(declared, lambda option: option.key, limit=limit, marker=marker)
        documents = [_document(option) for option in page]
        answer(response, {"options": documents, "next": next_link(request, following)})


class History:
    """Who changed what, the newest first."""

    def __init__(self, desk: ConfigurationDesk) -> None:
        self._desk = desk

    async def on_get(self, request: Request, response: Response) -> None:
        with Fields(request.params) as fields:
            limit, _ = take_paging(fields)
            before = fields.take("marker", integer(0, _MOST), default=None)
        revisions = await self._desk.shared().history(limit=limit + 1, before=before)
        page = revisions[:limit]
        following = str(page[-1].number) if len(revisions) > limit else None
        names = await self._desk.names_to_tell(*(each.key for revision in page for each in revision.changes))
        documents = [self._desk.revision_document(revision, names) for revision in page]
        answer(response, {"revisions": documents, "next": next_link(request, following)})


class Rollback:
    """Back to how everything was right after a revision, by one more change."""

    def __init__(self, desk: ConfigurationDesk) -> None:
        self._desk = desk

    async def on_post(self, request: EngineRequest, response: Response) -> None:
        with Fields(await read_json(request)) as fields:
            number = fields.take("revision", integer(0, _MOST))
            engine = fields.take("engine", text, default=None)
        shared = self._desk.shared()
        wanted = await shared.undoing(number, engine)
        if not wanted:
            answer(response, await changed_document(self._desk, None))
            return
        revision = await shared.change(
            wanted, user=user_of(request), comment=f"back to revision {number}", engine=engine
        )
        answer(response, await changed_document(self._desk, revision))


class ConfigurationProgress:
    """Each process: since when it has what is configured, what waits for a restart, what it refuses."""

    def __init__(self, desk: ConfigurationDesk) -> None:
        self._desk = desk

    async def on_get(self, request: Request, response: Response) -> None:
        with Fields(request.params):
            pass
        processes = await self._desk.shared().progress()
        told = [option for process in processes for option in (*process["pending"], *process["refused"])]
        names = await self._desk.names_to_tell(*told)
        for process in processes:
            process["pending"] = [names.told(option) for option in process["pending"]]
            process["refused"] = {names.told(key): why for key, why in process["refused"].items()}
        answer(response, {"processes": processes})


def _document(declared: Declared) -> dict[str, Any]:
    default = declared.option.default
    return {
        "option": declared.name,
        "type": declared.kind,
        "allowed": declared.allowed,
        "default": MASK if declared.secret and default else default,
        "takes_effect": "now" if declared.mutable else "at a restart",
        "local": declared.local,
        "per_cluster": declared.per_cluster,
        "secret": declared.secret,
        "help": declared.option.help,
    }
