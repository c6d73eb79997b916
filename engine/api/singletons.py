"""`/v1/singletons`: each duty of the cluster, who leads, who waits in line, how it fares on each engine.

Read from the watched cluster. What an operator asks for is written into the singleton's node, and the
engines act on it: a leader gives way, or pauses, between two beats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import falcon
from falcon.asgi import Request, Response

from engine.api.commands import user_of
from engine.api.dependencies import Cluster, Dependencies
from engine.api.fields import Fields, text
from engine.api.http import EngineRequest, answer, next_link, page_of, read_json_if_any, take_paging
from engine.api.snapshot import Candidate, ClusterSnapshot
from engine.api.staleness import mark_staleness
from engine.db.events import record
from engine.errors import Conflict, NotFound
from engine.plugin import EngineId, Scope
from engine.singletons.orders import Orders, asked_again
from engine.singletons.status import DutyState, DutyStatus

ACTIONS = ("move", "pause", "resume", "run-now")
_EVENTS = {
    "move": "singleton_moved",
    "pause": "singleton_paused",
    "resume": "singleton_resumed",
    "run-now": "singleton_hurried",
}


def singleton_names(snapshot: ClusterSnapshot) -> list[str]:
    """All that have ever been led, and all that any engine has."""
    return sorted(
        snapshot.singletons.keys() | {name for duties in snapshot.duties.values() for name in duties}
    )


def singleton_document(snapshot: ClusterSnapshot, name: str) -> dict[str, Any]:
    line = snapshot.singletons.get(name, ())
    duties = _duties(snapshot, name)
    orders = snapshot.orders.get(name, Orders())
    scope = next((duty.scope for duty in duties.values() if duty.scope is not None), None)
    return {
        "name": name,
        "scope": scope.value if scope is not None else None,
        "state": _state(orders, bool(line), duties),
        "leader": line[0].engine if line else None,
        "since": _since(line[0], duties) if line else None,
        "candidates": [candidate.engine for candidate in line],
        "preferred": orders.preferred,
        "failures": sum(duty.failures for duty in duties.values()),
    }


def singleton_details(snapshot: ClusterSnapshot, name: str) -> dict[str, Any]:
    document = singleton_document(snapshot, name)
    duties = _duties(snapshot, name)
    orders = snapshot.orders.get(name, Orders())
    leader = duties.get(document["leader"])
    return {
        **document,
        "token": leader.token if leader is not None else None,
        "paused": orders.paused,
        "ordered_by": orders.by or None,
        "ordered_at": orders.since or None,
        "engines": [
            {"engine": engine, **{key: value for key, value in duty.to_dict().items() if key != "name"}}
            for engine, duty in duties.items()
        ],
    }


def _since(leader: Candidate, duties: dict[EngineId, DutyStatus]) -> datetime:
    """Since when it leads, as it says itself; else since when it is in the line."""
    told = duties.get(leader.engine)
    return told.since if told is not None and told.state is DutyState.RUNNING else leader.since


def _duties(snapshot: ClusterSnapshot, name: str) -> dict[EngineId, DutyStatus]:
    return {engine: duties[name] for engine, duties in snapshot.duties.items() if name in duties}


def _state(orders: Orders, led: bool, duties: dict[EngineId, DutyStatus]) -> str:
    """One word: paused, running, failing (nobody runs it, and it failed somewhere), refused (by all that
    have it), absent (no engine has it), waiting."""
    states = {duty.state for duty in duties.values()}
    if orders.paused:
        return "paused"
    if led or DutyState.RUNNING in states:
        return "running"
    if states & {DutyState.RESTING, DutyState.STUCK}:
        return "failing"
    if not states:
        return "absent"
    return "refused" if states == {DutyState.REFUSED} else "waiting"


class Singletons:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def on_get(self, request: Request, response: Response) -> None:
        with Fields(request.params) as fields:
            limit, marker = take_paging(fields)
        snapshot = self._cluster.snapshot
        page, following = page_of(singleton_names(snapshot), str, limit=limit, marker=marker)
        answer(
            response,
            {
                "singletons": [singleton_document(snapshot, name) for name in page],
                "next": next_link(request, following),
                **mark_staleness(self._cluster, response),
            },
        )


class SingletonResource:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def on_get(self, request: Request, response: Response, singleton: str) -> None:
        with Fields(request.params):
            pass
        snapshot = self._cluster.snapshot
        _require(snapshot, singleton)
        document = singleton_details(snapshot, singleton)
        answer(response, {**document, **mark_staleness(self._cluster, response)})


class SingletonAction:
    """`move`, `pause`, `resume`, `run-now`: the orders are changed, an event tells who did it."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies

    async def on_post(self, request: EngineRequest, response: Response, singleton: str, action: str) -> None:
        if action not in ACTIONS:
            raise NotFound(
                f"there is no action {action[:40]!r} on singletons; there are {', '.join(ACTIONS)}"
            )
        with Fields(await read_json_if_any(request)) as fields:
            engine = fields.take("engine", text, default=None) if action == "move" else None
        snapshot = self._dependencies.cluster.snapshot
        _require(snapshot, singleton)
        if action == "move":
            _require_movable(snapshot, singleton, engine)
        if action == "run-now" and snapshot.orders.get(singleton, Orders()).paused:
            raise Conflict(f"{singleton} is paused; resume it first")
        user = user_of(request)
        now = self._dependencies.now().isoformat(timespec="seconds")
        change, told = _change(action, engine, by=user or "an operator", at=now)
        orders = await self._dependencies.order(singleton, change)
        async with self._dependencies.database.writing() as connection:
            await record(
                connection,
                _EVENTS[action],
                f"{user or 'an operator'} {told} singleton {singleton}"
                + (f" to {engine}" if engine is not None else ""),
                data={"singleton": singleton, "engine": engine, "user": user, "request": request.request_id},
            )
        answer(
            response,
            {"name": singleton, "paused": orders.paused, "preferred": orders.preferred, "runs": orders.runs},
            status=falcon.HTTP_202,
        )


def _change(action: str, engine: str | None, *, by: str, at: str) -> tuple[Callable[[Orders], Orders], str]:
    match action:
        case "move":
            preferred = EngineId(engine) if engine is not None else None
            return lambda orders: replace(orders, preferred=preferred, by=by, since=at), (
                "moved" if engine is not None else "freed"
            )
        case "pause":
            return lambda orders: replace(orders, paused=True, by=by, since=at), "paused"
        case "resume":
            return lambda orders: replace(orders, paused=False, by=by, since=at), "resumed"
        case _:
            return asked_again, "asked for a run of"


def _require(snapshot: ClusterSnapshot, name: str) -> None:
    names = singleton_names(snapshot)
    if name not in names:
        raise NotFound(f"there is no singleton {name[:100]!r}; there are {', '.join(names) or 'none'}")


def _require_movable(snapshot: ClusterSnapshot, name: str, engine: str | None) -> None:
    duties = _duties(snapshot, name)
    if any(duty.scope not in (Scope.CLUSTER, None) for duty in duties.values()):
        raise Conflict(f"{name} runs on every engine, or with the owners of shards: it cannot be moved")
    if engine is None:
        return
    can = [of for of, duty in duties.items() if duty.state is not DutyState.REFUSED]
    if engine not in {member.engine for member in snapshot.members}:
        members = ", ".join(member.engine for member in snapshot.members)
        raise NotFound(f"there is no engine {engine[:100]!r} now; there are {members or 'none'}")
    if engine not in can:
        raise Conflict(f"{engine} does not have {name}; these do: {', '.join(can) or 'none'}")
