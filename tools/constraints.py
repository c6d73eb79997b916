"""Print constraints.txt: the exact versions in this environment of all that the project needs.

Run it in the environment that passed the tests: `.venv/bin/python tools/constraints.py > constraints.txt`.
Only what setup.cfg asks for (with the extra `test`) and what that needs in turn: no paths, nothing
that happens to be installed beside it.
"""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "engine-ha"


def needed(project: str, extra: str) -> dict[str, str]:
    """Name to version of everything that `project[extra]` needs here, directly or not."""
    visited: dict[str, set[str]] = {}
    pending = [(project, frozenset({"", extra}))]
    while pending:
        name, extras = pending.pop()
        known = visited.setdefault(canonicalize_name(name), set())
        if extras <= known:
            continue
        known |= extras
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in known):
                pending.append((requirement.name, frozenset({"", *requirement.extras})))
    visited.pop(canonicalize_name(project))
    found = [metadata.distribution(name) for name in visited]
    return {found_one.metadata["Name"]: found_one.version for found_one in found}


if __name__ == "__main__":
    print("# What CI tested. Made by tools/constraints.py; pip and tox install within it.")
    for name, version in sorted(needed(PROJECT, "test").items(), key=lambda item: item[0].lower()):
        print(f"{name}=={version}")
