"""Asking the API for something that takes a while: a command, followed to its end with `--wait`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from engine.cli.client import Api
from engine.errors import Conflict

_WAIT_SECONDS = 10
"""Of one request; the API keeps none for longer than half a minute."""
_BAR = 24

SHOWN = ("id", "type", "state", "percent", "message", "error", "created_at", "ended_at")


def add_wait_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wait", action="store_true", help="wait until it is done, and show how far it is")


def act(api: Api, path: str, body: Mapping[str, Any], *, wait: bool) -> dict[str, Any]:
    """Ask for it; the command, as it was accepted or as it has ended.

    Raises `Conflict` when it was waited for and did not succeed.
    """
    command = api.post(f"{path}?wait={_WAIT_SECONDS}s" if wait else path, body)
    if not wait:
        return command
    while command["ended_at"] is None and command["state"] != "needs_operator":
        _show(command)
        command = api.get(f"/v1/commands/{command['id']}", {"wait": "1s"})
    _show(command, end="\n")
    if command["state"] != "succeeded":
        raise Conflict(f"{command['type']} {command['state']}: {command['error'] or command['message']}")
    return command


def path_to(kind: str, called: str, action: str | None = None) -> str:
    """Where the API has an entity, by name or id, or one of its actions."""
    path = f"/v1/{kind}/{quote(called, safe='')}"
    return path if action is None else f"{path}/{action}"


def shown(command: Mapping[str, Any]) -> dict[str, Any]:
    return {name: command[name] for name in SHOWN}


def _show(command: Mapping[str, Any], *, end: str = "") -> None:
    if not sys.stderr.isatty():
        return
    done = round(_BAR * command["percent"] / 100)
    bar = "#" * done + "." * (_BAR - done)
    told = command["message"] or command["state"]
    sys.stderr.write(f"\r\x1b[K{command['type']} [{bar}] {command['percent']:3d} % {told[:60]}{end}")
    sys.stderr.flush()
