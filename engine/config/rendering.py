"""What the cluster sets, as a configuration file of oslo.config.

oslo.config reads a source driver once and lets any file hide it, so for our own processes the cluster's
values are a file of their own, listed last: it hides the local file, is hidden by environment and command
line, `mutate_config_files` sees its changes, and it is there when ZooKeeper is not. A value that does not
fit is left as it was and told; it never takes an engine down. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.config import values
from engine.config.catalogue import Declared, OptionCatalogue, lines


@dataclass(frozen=True, slots=True)
class Rendered:
    """`accepted`: the nodes' data by key, as they stand in `text`. `refused`: key to reason."""

    text: str
    accepted: Mapping[str, bytes] = field(repr=False)
    refused: Mapping[str, str]


def render(
    nodes: Mapping[str, bytes], catalogue: OptionCatalogue, *, before: Mapping[str, bytes], note: str = ""
) -> Rendered:
    """`nodes`: what is configured, by `group/option`. `before`: what was accepted last.

    Options that nobody registers here are another program's, or of a plugin that is not installed.
    """
    accepted: dict[str, bytes] = {}
    refused: dict[str, str] = {}
    sections: dict[str, list[str]] = {}
    for key, data in sorted(nodes.items()):
        declared = catalogue.get(key)
        if declared is None:
            continue
        if declared.local:
            refused[key] = "it belongs to one machine, and is not taken from the cluster"
            continue
        if declared.host_cluster is not None and not declared.per_cluster:
            refused[key] = "it is the same for all hosts, and is not taken for those of one cluster"
            continue
        try:
            written = _written(declared, data)
        except ValueError as error:
            shown = "the value (not shown) does not fit" if declared.secret else str(error)
            refused[key] = f"{shown}; it has to be {declared.allowed}"
            if key not in before:
                continue
            data = before[key]
            written = _written(declared, data)
        accepted[key] = data
        sections.setdefault(declared.group, []).extend(written)
    parts = [f"# {note}"] if note else []
    for group, content in sections.items():
        parts += ["", f"[{group}]", *content]
    return Rendered("\n".join(parts) + "\n", accepted, refused)


def _written(declared: Declared, data: bytes) -> list[str]:
    value = values.decode(data, declared.option)
    if not declared.secret:  # ciphertext is checked when it is read
        values.check(value, declared.option)
    return [f"{declared.option.dest} = {line}" for line in lines(declared.option, value)]
