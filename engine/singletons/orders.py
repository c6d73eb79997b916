"""What operators want of a singleton: the data of its node, `/singletons/<name>`, as zkCli shows it.

Every engine watches it and acts on it at once. A change is made at the version that was read, so two
operators do not undo each other unseen. Called by the API; read by `board.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import orjson

from engine.coordination.operations import MalformedNode, Node, Reason, Rejected
from engine.coordination.session import Session
from engine.plugin import EngineId


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """`runs` counts how often somebody has asked for a run at once; `by` and `since` tell who paused it
    last, or moved it, and when (ISO 8601)."""

    paused: bool = False
    preferred: EngineId | None = None
    runs: int = 0
    by: str = ""
    since: str = ""

    @classmethod
    def from_node(cls, node: Node | None) -> Orders:
        """What is not there, or is of another type, is as if nobody had said anything. Raises
        `MalformedNode` where there is no JSON object."""
        if node is None or not node.data:
            return cls()
        said = node.json()
        if not isinstance(said, dict):
            raise MalformedNode("the node of a singleton holds no object")
        preferred, runs = said.get("preferred"), said.get("runs")
        return cls(
            paused=said.get("paused") is True,
            preferred=EngineId(preferred) if isinstance(preferred, str) and preferred else None,
            runs=runs if isinstance(runs, int) else 0,
            by=str(said.get("by") or ""),
            since=str(said.get("since") or ""),
        )

    def to_json(self) -> bytes:
        return orjson.dumps(asdict(self))


async def order(session: Session, name: str, change: Callable[[Orders], Orders]) -> Orders:
    """Change the orders for a singleton; the new ones. Raises `Unavailable`, `OutcomeUnknown`."""
    path = session.paths.singleton(name)
    await session.ensure(path)
    while True:
        node = await session.get(path)
        try:
            before = Orders.from_node(node)
        except MalformedNode:
            before = Orders()
        wanted = change(before)
        try:
            await session.set(path, wanted.to_json(), node.stat.version if node is not None else -1)
        except Rejected as refused:
            if refused.reason is not Reason.VERSION:
                raise
        else:
            return wanted


def asked_again(orders: Orders) -> Orders:
    """Run now."""
    return replace(orders, runs=orders.runs + 1)
