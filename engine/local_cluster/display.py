"""The live status of `engine up`: a panel on a terminal, plain lines of what changed elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any

import httpx
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

REFRESH_SECONDS = 1.0


def shards_by_engine(status: dict[str, Any]) -> dict[str, int]:
    return {member["engine"]: member.get("shards_owned", 0) for member in status["members"]}


def panel(status: dict[str, Any]) -> Group:
    """The status as rich renders it: engines, hosts by status, last events."""
    engines = Table(title="Engines", title_justify="left")
    for column in ("engine", "state", "pid", "shards"):
        engines.add_column(column, justify="right" if column in ("pid", "shards") else "left")
    for member in status["members"]:
        engines.add_row(
            member["engine"], member["state"], str(member["pid"]), str(member.get("shards_owned", 0))
        )
    hosts = Text("Hosts: " + (counts(status["hosts"]) or "none"))
    shards = Text(f"Shards owned: {status['shards']['owned']} of {status['shards']['total']}")
    events = Table(title="Last events", title_justify="left", show_header=False, box=None)
    for event in status["events"]:
        events.add_row(event["at"][11:19], event["kind"], event["message"])
    return Group(engines, shards, hosts, events)


def counts(by_status: dict[str, int]) -> str:
    """'24 up, 1 connecting': most frequent first."""
    return ", ".join(f"{n} {name}" for name, n in Counter(by_status).most_common())


def line(status: dict[str, Any]) -> str:
    """The status as one plain line."""
    engines = ", ".join(f"{name} {n}" for name, n in shards_by_engine(status).items())
    return f"engines: {engines or 'none'} (shards); hosts: {counts(status['hosts']) or 'none'}"


async def show(api_url: str, console: Console) -> None:
    """Show the status until cancelled."""
    async with httpx.AsyncClient(base_url=api_url, timeout=5) as client:
        if console.is_terminal and not console.is_dumb_terminal:
            await _show_live(client, console)
        else:
            await _show_lines(client, console)


async def _fetch(client: httpx.AsyncClient) -> dict[str, Any] | None:
    with contextlib.suppress(httpx.HTTPError):
        answer = await client.get("/v1/status")
        if answer.status_code == 200:
            status: dict[str, Any] = answer.json()
            return status
    return None


async def _show_live(client: httpx.AsyncClient, console: Console) -> None:
    with Live(console=console, auto_refresh=False) as live:
        while True:
            status = await _fetch(client)
            live.update(panel(status) if status else Text("the API does not answer"), refresh=True)
            await asyncio.sleep(REFRESH_SECONDS)


async def _show_lines(client: httpx.AsyncClient, console: Console) -> None:
    last = ""
    while True:
        status = await _fetch(client)
        now = line(status) if status else "the API does not answer"
        if now != last:
            console.print(now, soft_wrap=True, highlight=False)
            last = now
        await asyncio.sleep(REFRESH_SECONDS)
