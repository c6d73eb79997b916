"""What `engine --help` lists: every command with one line, without importing any of them.

A command's line is the first of its class's docstring, read from the source: some commands import half
the engine, and whoever asks for help should not wait for that. What cannot be read so is imported.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable
from typing import Any


def overview(commands: Iterable[tuple[str, Any]]) -> str:
    """`commands` are (name, entry point), as cliff's command manager yields them."""
    lines = {name: summary(entry) for name, entry in sorted(commands)}
    width = max(map(len, lines), default=0)
    return "\n".join(["commands:", *(f"  {name.ljust(width)}  {line}" for name, line in lines.items())])


def summary(entry: Any) -> str:
    """The first sentence of the command's docstring."""
    text = _written(entry) or entry.load().__doc__ or ""
    return text.strip().split("\n")[0].split(". ")[0].rstrip(".")


def _written(entry: Any) -> str | None:
    module, _, name = getattr(entry, "value", "").partition(":")
    spec = importlib.util.find_spec(module) if module else None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    with open(spec.origin, "rb") as source:
        tree = ast.parse(source.read())
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return ast.get_docstring(node)
    return None
