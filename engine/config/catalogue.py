"""The options that a cluster may set: what is registered here, and what of it belongs to one machine.

Whoever writes a value asks here first, so a bad one is refused before any engine sees it; whoever reads
one asks again, since zkCli asks nobody. Pure. Built by `engine.options`, which knows all packages.
"""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from oslo_config import cfg

from engine.config import values
from engine.errors import InvalidInput

MAX_VALUE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Declared:
    """One option. `local`: it belongs to one machine, and the cluster never sets it. `per_cluster`: it may be
    set for the hosts of one host cluster; this one is, for that with the id `host_cluster`."""

    group: str
    option: cfg.Opt
    local: bool
    per_cluster: bool = False
    host_cluster: str | None = None

    @property
    def key(self) -> str:
        """`<group>/<option>`, as its node is called."""
        return f"{self.group}/{self.option.dest}"

    @property
    def name(self) -> str:
        """`<group>.<option>`, as people write it."""
        return f"{self.group}.{self.option.dest}"

    @property
    def mutable(self) -> bool:
        """A change takes effect at once; else when the process starts again."""
        return bool(self.option.mutable)

    @property
    def secret(self) -> bool:
        return bool(self.option.secret)

    @property
    def kind(self) -> str:
        """`float`, `list` and so on."""
        name = str(getattr(self.option.type, "type_name", "value")).removesuffix(" value")
        name = name.replace("floating point", "number").replace("integer", "whole number")
        return f"multiple {name}" if self.option.multi else name

    @property
    def allowed(self) -> str:
        """What a value has to be, for a person."""
        kind = self.option.type
        if choices := getattr(kind, "choices", None):
            return "one of " + ", ".join(str(choice) for choice in choices)
        low, high = getattr(kind, "min", None), getattr(kind, "max", None)
        if low is not None and high is not None:
            return f"{self.kind} from {low:g} to {high:g}"
        if low is not None:
            return f"{self.kind}, at least {low:g}"
        if high is not None:
            return f"{self.kind}, at most {high:g}"
        if pattern := getattr(kind, "regex", None):
            return f"{self.kind} like {pattern.pattern}"
        return self.kind


class OptionCatalogue:
    """All options by key. `local`: keys, or whole groups, that belong to one machine; `per_cluster`: keys
    that may be set for the hosts of one host cluster, as `<group>@<id of the cluster>/<option>`."""

    def __init__(
        self,
        declared: Iterable[tuple[str | None, Sequence[Any]]],
        *,
        local: Collection[str] = (),
        per_cluster: Collection[str] = (),
    ) -> None:
        self._declared: dict[str, Declared] = {}
        for group, options in declared:
            name = group or "DEFAULT"
            for option in options:
                key = f"{name}/{option.dest}"
                self._declared[key] = Declared(
                    name, option, key in local or name in local, per_cluster=key in per_cluster
                )

    def __iter__(self) -> Iterator[Declared]:
        return iter(sorted(self._declared.values(), key=lambda declared: declared.key))

    def get(self, key: str) -> Declared | None:
        group, _, name = key.partition("/")
        base, at, cluster = group.partition("@")
        declared = self._declared.get(f"{base}/{name}")
        if declared is None or not at:
            return declared
        option = copy.copy(declared.option)
        option.default = None  # not set here: as it is set for all
        return replace(declared, group=group, option=option, host_cluster=cluster)

    def per_cluster(self, group: str) -> list[str]:
        """Names of the options of a group that may be set for the hosts of one host cluster."""
        return [each.option.dest for each in self if each.group == group and each.per_cluster]

    def settable(self, name: str) -> Declared:
        """The option `group.option` or `group/option` that the cluster may set. Raises `InvalidInput`."""
        key = name if "/" in name else "/".join(name.rpartition(".")[::2])
        declared = self.get(key)
        if declared is None:
            raise InvalidInput(self._unknown(name, key), fields={name: "is no option"})
        if declared.local:
            raise InvalidInput(
                f"{declared.name} belongs to one machine: set it in that machine's configuration file",
                fields={name: "is local to each machine"},
            )
        if declared.host_cluster is not None and not declared.per_cluster:
            base = declared.group.partition("@")[0]
            allowed = ", ".join(f"{base}.{option}" for option in self.per_cluster(base))
            where = f"of [{base}] these may: {allowed}" if allowed else f"no option of [{base}] may"
            raise InvalidInput(
                f"{base}.{declared.option.dest} cannot be set for the hosts of one cluster: {where}",
                fields={name: "is the same for all hosts"},
            )
        return declared

    def _unknown(self, name: str, key: str) -> str:
        near = difflib.get_close_matches(key, self._declared, n=3, cutoff=0.6)
        group, _, option = key.partition("/")
        near += [other for other in self._declared if other.endswith(f"/{option}") and other not in near][:3]
        meant = ", ".join(self._declared[other].name for other in near)
        hint = f"did you mean {meant}?" if meant else f"no group {group!r}" if group else "say GROUP.OPTION"
        return f"there is no option {name!r} here: {hint}"


def canonical(declared: Declared, given: Any) -> bytes:
    """The node of what a user wrote: JSON. `given` is text (`1.5`, `a,b`) or what JSON has.

    Raises `InvalidInput`, which names the option, what was given and what is allowed.
    """
    data = given.encode() if isinstance(given, str) else json.dumps(given).encode()
    if len(data) > MAX_VALUE_BYTES:
        raise refused(declared, given, f"it has {len(data)} bytes, of {MAX_VALUE_BYTES} at most")
    try:
        if "\n" in data.decode():
            raise ValueError("it has more than one line")
        value = values.decode(data, declared.option)
        values.check(value, declared.option)
        return json.dumps(_typed(declared.option, value), ensure_ascii=False).encode()
    except ValueError as error:
        raise refused(declared, given, str(error)) from None


def refused(declared: Declared, given: Any, why: str) -> InvalidInput:
    """The error for a value that does not fit. A secret is not repeated."""
    shown = "the value (not shown)" if declared.secret else repr(given)
    reason = "it does not fit" if declared.secret else why
    return InvalidInput(
        f"{declared.name}: {shown[:200]} is not allowed: {reason}; it has to be {declared.allowed}",
        fields={declared.name: f"has to be {declared.allowed}"},
    )


def _typed(option: cfg.Opt, value: Any) -> Any:
    """As JSON has it best: numbers as numbers. A text that refers to another option stays a text."""
    if "$" in json.dumps(value):
        return value
    if option.multi:
        return [_plain(option.type(item)) for item in value]
    return _plain(option.type(value))


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


def lines(option: cfg.Opt, value: Any) -> list[str]:
    """What stands behind the `=` in an oslo.config file, once for each line, for a decoded value."""
    if option.multi:
        return [_line(item) for item in value]
    if isinstance(value, list):
        if bad := [item for item in value if "," in item]:
            raise ValueError(f"{bad[0]!r} has a comma, which separates the items of a list")
        value = ",".join(value)
        return [f"[{value}]" if getattr(option.type, "bounds", False) else value]
    if isinstance(value, dict):
        return [",".join(f"{name}:{item}" for name, item in value.items())]
    return [_line(value)]


def _line(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise ValueError("it has more than one line")
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return f'"{text}"' if quoted or text != text.strip() else text
