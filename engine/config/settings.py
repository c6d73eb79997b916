"""Settings that follow the configuration: built once from options, and changed in place when those change.

Whoever is given such a settings object reads it at each use, and never copies from it; that is all it takes
for an option to be mutable. Kept by the services; the owners of the settings know nothing of this.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from oslo_config import cfg

from engine.errors import InvalidInput

LOG = logging.getLogger(__name__)

T = TypeVar("T")


class LiveSettings:
    """Of one process, over `conf`, which oslo.config mutates."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._kept: list[tuple[Any, Callable[[], Any]]] = []
        conf.register_mutate_hook(lambda _conf, _changed: self.refresh())

    def __iter__(self) -> Iterator[Any]:
        return iter([settings for settings, _ in self._kept])

    def keep(self, read: Callable[[], T]) -> T:
        """What `read` makes of the options, a dataclass; kept as it would make it at any later time."""
        settings = read()
        self._kept.append((settings, read))
        return settings

    def refresh(self) -> None:
        """Read all anew. Options that do not fit together leave those settings as they are."""
        for settings, read in self._kept:
            try:
                fresh = read()
            except InvalidInput as error:
                LOG.error("options are not applied: %s", error)
                continue
            for field in dataclasses.fields(settings):
                setattr(settings, field.name, getattr(fresh, field.name))
