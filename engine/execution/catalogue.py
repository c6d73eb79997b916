"""The installed tasks, by name. One that cannot be loaded is left out, loudly; the rest can be called."""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from engine.errors import NotFound
from engine.plugin import CONTRACT_VERSION, Task

LOG = logging.getLogger(__name__)

NAMESPACE = "engine.tasks"

ReadOptions = Callable[[str, Sequence[Any]], Mapping[str, Any]]
"""The values of these options of the task of this name. Raises where they are not usable."""


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """A task and the values of its options."""

    name: str
    kind: type[Task]
    values: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Catalogue:
    """Tasks by name."""

    def __init__(self, tasks: Iterable[LoadedTask]) -> None:
        self.tasks: Mapping[str, LoadedTask] = {task.name: task for task in tasks}

    def find(self, name: str) -> LoadedTask:
        """Raises `NotFound`, naming those that there are."""
        if name not in self.tasks:
            raise NotFound(f"there is no task {name}; there are {', '.join(sorted(self.tasks)) or 'none'}")
        return self.tasks[name]


def load_tasks(
    found: Iterable[EntryPoint] | None = None, *, read_options: ReadOptions | None = None
) -> Catalogue:
    """What is installed; `found` stands in for it."""
    tasks: dict[str, LoadedTask] = {}
    offered = list(entry_points(group=NAMESPACE) if found is None else found)
    claims = Counter(entry_point.name for entry_point in offered)
    for entry_point in sorted(offered, key=lambda each: each.name):
        name = entry_point.name
        try:
            kind = entry_point.load()
        except (Exception, SystemExit):
            LOG.exception("task %s cannot be imported", name)
            continue
        if not (inspect.isclass(kind) and issubclass(kind, Task)):
            LOG.error("task %s: %s is no Task", name, entry_point.value)
        elif kind.contract != CONTRACT_VERSION:
            LOG.error("task %s is written for contract %s", name, kind.contract)
        elif claims[name] > 1:
            LOG.error("task %s is offered more than once: none of them is used", name)
        else:
            try:
                values = read_options(name, kind.options) if read_options and kind.options else {}
            except Exception as error:  # a plugin's declarations may be anything
                LOG.error("task %s: its options in [task_%s] are not usable: %s", name, name, error)
                continue
            tasks[name] = LoadedTask(name, kind, values)
    return Catalogue(tasks.values())
