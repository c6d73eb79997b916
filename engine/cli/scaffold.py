"""Writes a package with one plugin: its module, its entry point, and a test that holds it to the contract.

The templates are `templates/<kind>/`; `$name`, `$class_name` and `$distribution` stand in them for what was
asked. Used by `engine plugins new`.
"""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template

from engine.errors import Conflict, InvalidInput

TEMPLATES = Path(__file__).parent / "templates"
KINDS = ("command", "driver", "singleton")

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


def write_package(kind: str, name: str, directory: Path) -> Path:
    """The directory that was made. Raises `InvalidInput` for a name that is none, `Conflict` where it is."""
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise InvalidInput(
            f"{name!r} is no name for a plugin: lower-case letters, digits and _, a letter first, 63 at most",
            fields={"name": "must be lower-case letters, digits and _"},
        )
    distribution = name.replace("_", "-")
    made = directory / distribution
    if made.exists():
        raise Conflict(f"{made} is there already: choose another name or --directory")
    words = {
        "name": name,
        "class_name": "".join(part.capitalize() for part in name.split("_")),
        "distribution": distribution,
    }
    files = {
        "pyproject.toml": _filled("pyproject.toml.tmpl", {**words, "kind": kind}),
        f"{name}.py": _filled(f"{kind}/module.py.tmpl", words),
        f"test_{name}.py": _filled(f"{kind}/test.py.tmpl", words),
    }
    made.mkdir(parents=True)
    for file, text in files.items():
        (made / file).write_text(text, encoding="utf-8")
    return made


def _filled(template: str, words: dict[str, str]) -> str:
    return Template((TEMPLATES / template).read_text(encoding="utf-8")).substitute(words)
