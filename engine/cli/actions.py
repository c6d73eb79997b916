"""Asking the API for something that takes a while: a command, followed to its end with `--wait`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from engine.cli.client import Api
from engine.cli.commands import watch
from engine.errors import Conflict

SHOWN = ("id", "type", "state", "percent", "message", "error", "created_at", "ended_at")


def add_wait_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wait", action="store_true", help="wait until it is done, and show how far it is")


def act(api: Api, path: str, body: Mapping[str, Any], *, wait: bool) -> dict[str, Any]:
    """Ask for it; the command, as it was accepted or as it has ended.

    Raises `Conflict` when it was waited for and did not succeed.
    """
    command = api.post(path, body)
    if not wait:
        return command
    command = watch(api, command["id"])
    if command["state"] != "succeeded":
        raise Conflict(f"{command['type']} {command['state']}: {command['error'] or command['message']}")
    return command


def path_to(kind: str, called: str, action: str | None = None) -> str:
    """Where the API has an entity, by name or id, or one of its actions."""
    path = f"/v1/{kind}/{quote(called, safe='')}"
    return path if action is None else f"{path}/{action}"


def shown(command: Mapping[str, Any]) -> dict[str, Any]:
    return {name: command[name] for name in SHOWN}
