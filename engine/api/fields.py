"""What a client sent, taken apart field by field; everything that is wrong is reported at once.

    with Fields(await read_json(request)) as fields:
        name = fields.take("name", text)
        port = fields.take("port", integer(1, 65535), default=54321)

Leaving the block raises `InvalidInput` that names every bad and every unknown field. What `take`
returned is meaningful only after that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast, overload

from engine.errors import InvalidInput

T = TypeVar("T")

_REQUIRED: Final = object()


class Fields:
    """A JSON object, or the parameters of a query."""

    REQUIRED: Final = _REQUIRED
    """As a default: there is none."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self._known: list[str] = []
        self._wrong: dict[str, str] = {}

    @overload
    def take(self, name: str, check: Callable[[Any], T], *, default: None) -> T | None: ...

    @overload
    def take(self, name: str, check: Callable[[Any], T], *, default: T | object = ...) -> T: ...

    def take(self, name: str, check: Callable[[Any], T], *, default: object = _REQUIRED) -> T | None:
        """The value of `name` as `check` returns it; `check` raises `InvalidInput` or ValueError."""
        self._known.append(name)
        value = self._values.get(name, _REQUIRED)
        if value is _REQUIRED or value is None:
            if default is _REQUIRED:
                self._wrong[name] = "is required"
            return cast(T, default)
        try:
            return check(value)
        except InvalidInput as error:
            self._wrong[name] = error.fields.get(name, str(error))
        except ValueError as error:
            self._wrong[name] = str(error)
        return cast(T, default)

    def refuse(self, name: str, why: str) -> None:
        """This one is wrong, whatever a check would say."""
        self._known.append(name)
        self._wrong[name] = why

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        allowed = ", ".join(dict.fromkeys(self._known)) or "none"
        for name in self._values:
            if name not in self._known:
                self._wrong[str(name)[:100]] = f"is unknown; allowed: {allowed}"
        if self._wrong:
            told = "; ".join(f"{name} {what}" for name, what in self._wrong.items())
            raise InvalidInput(told[:1000], fields=self._wrong)


def text(value: Any) -> str:
    """A string, not empty."""
    if not isinstance(value, str):
        raise ValueError("must be a string")
    if not value:
        raise ValueError("must not be empty")
    return value


def integer(least: int, most: int) -> Callable[[Any], int]:
    """A whole number in a range; digits, as a query has them, are one too."""

    def check(value: Any) -> int:
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return value

    return check


def several(check: Callable[[Any], T]) -> Callable[[Any], tuple[T, ...]]:
    """One value, or a list of them, as a parameter has that is given more than once."""

    def check_all(value: Any) -> tuple[T, ...]:
        return tuple(check(item) for item in (value if isinstance(value, list) else [value]))

    return check_all
