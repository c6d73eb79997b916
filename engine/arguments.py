"""Arguments of commands: frozen dataclasses whose fields say what they accept.

    @dataclass(frozen=True, slots=True)
    class StopVmArguments:
        vm_id: str = argument(identifier, help="the machine to stop")
        force: bool = argument(boolean, default=False, help="do not wait for its system")

`parse` builds one from JSON and reports every bad field at once; `plain` gives the JSON back.
Plugins import all of this from `engine.plugin`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from engine.errors import InvalidInput

T = TypeVar("T")
Check = Callable[[Any], Any]
"""Returns the value as it is to be kept, or raises ValueError (or `InvalidInput`) saying what is wrong."""

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CHECK, _HELP = "engine.check", "engine.help"


def argument(check: Check, *, default: Any = dataclasses.MISSING, help: str = "") -> Any:
    """A field that accepts what `check` does. Without a default it has to be given."""
    return dataclasses.field(default=default, metadata={_CHECK: check, _HELP: help})


def parse(kind: type[T], values: Mapping[str, Any]) -> T:
    """`values` (JSON) as an instance of the dataclass `kind`.

    Raises `InvalidInput`, whose `fields` name every missing, bad and unknown argument. A value of
    None stands for one that was not given.
    """
    wrong: dict[str, str] = {}
    taken: dict[str, Any] = {}
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name, field in known.items():
        value = values.get(name)
        if value is None:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                wrong[name] = "is required"
            continue
        try:
            taken[name] = field.metadata[_CHECK](value) if _CHECK in field.metadata else value
        except InvalidInput as error:
            wrong[name] = error.fields.get(name, str(error))
        except (ValueError, TypeError) as error:
            wrong[name] = str(error)
    for name in values:
        if name not in known:
            wrong[str(name)[:100]] = f"is unknown; allowed: {', '.join(known) or 'none'}"
    if wrong:
        raise InvalidInput("; ".join(f"{n} {what}" for n, what in wrong.items())[:1000], fields=wrong)
    return kind(**taken)


def plain(arguments: Any) -> dict[str, Any]:
    """The JSON that `parse` makes the same arguments of."""
    return {field.name: getattr(arguments, field.name) for field in dataclasses.fields(arguments)}


def text(value: Any) -> str:
    """A string of 1 to 1000 characters."""
    if not isinstance(value, str) or not 1 <= len(value) <= 1000:
        raise ValueError("must be a string of 1 to 1000 characters")
    return value


def identifier(value: Any) -> str:
    """An id: letters, digits, `.`, `_` and `-`."""
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value):
        raise ValueError("must be an id: letters, digits, '.', '_' and '-', at most 128")
    return value


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def integer(least: int, most: int) -> Check:
    """A whole number in a range."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return value

    return check


def choice(*allowed: str) -> Check:
    """One of these words."""

    def check(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return str(value)

    return check


def listing(check: Check, *, most: int = 1000) -> Check:
    """A list of what `check` accepts; kept as a tuple."""

    def check_all(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or len(value) > most:
            raise ValueError(f"must be a list of at most {most}")
        return tuple(check(item) for item in value)

    return check_all


def mapping(value: Any) -> dict[str, Any]:
    """A JSON object, kept as it is."""
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object")
    return value
