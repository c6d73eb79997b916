"""How values look: for people in tables, for programs in JSON, YAML, CSV and plain values.

Times reach a program as they came (ISO 8601, UTC) and a person in local time. What is absent is a
dash in a table, null in JSON and YAML, nothing in CSV.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

ABSENT = "-"

_STRUCTURED = ("json", "yaml")


def table(
    items: Iterable[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    output: str,
    times: Collection[str] = (),
) -> tuple[Sequence[str], list[list[Any]]]:
    """What a cliff lister returns: the columns, and each item's values for the format `output`."""
    return columns, [[shown(item.get(name), output, name in times) for name in columns] for item in items]


def one(
    item: Mapping[str, Any], *, output: str, times: Collection[str] = ()
) -> tuple[Sequence[str], list[Any]]:
    """What a cliff `ShowOne` returns: all fields of one item."""
    return tuple(item), [shown(value, output, name in times) for name, value in item.items()]


def shown(value: Any, output: str, is_time: bool = False) -> Any:
    """One value for the format `output` (cliff's `-f`)."""
    if output in _STRUCTURED:
        return value
    if output != "table":
        return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value
    if value is None or value == "":
        return ABSENT
    if is_time:
        return local_time(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "\n".join(f"{name}: {shown(part, output)}" for name, part in value.items()) or ABSENT
    if isinstance(value, list):
        return ", ".join(str(shown(part, output)) for part in value) or ABSENT
    return value


def local_time(iso: str) -> str:
    """`2026-03-04 13:14:15`, in this machine's time zone."""
    return _parsed(iso).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _parsed(iso: str) -> datetime:
    moment = datetime.fromisoformat(iso)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
