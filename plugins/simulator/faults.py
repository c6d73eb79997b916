"""What is wrong with a host on purpose. Set over the control interface, read at each request.

A fresh object is a healthy host; `refuse` and `crash` are states of the host itself (`host.py`).
`slow`, `error` and `drop` may be confined to some verbs (none named: all). They are the agent's faults:
`Simulator.*` stands for what hypervisors tell each other, and is not touched by them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Faults:
    """`error_left` and `drop_left` count down; -1 means until cleared."""

    slow_seconds: float = 0.0
    slow_verbs: frozenset[str] = frozenset()
    silent: bool = False
    error_code: int = 0
    error_left: int = 0
    error_verbs: frozenset[str] = frozenset()
    drop_left: int = 0
    drop_verbs: frozenset[str] = frozenset()
    refuse_stale: bool = False
    cut: frozenset[str] = frozenset()
    """Engines between which and this host nothing passes any more."""
    wedged: bool = False
    """Starting the agent again does not help."""

    def clear(self) -> None:
        """Healthy again. Refusing older epochs is a property of the host, not a fault, and stays."""
        self.slow_seconds = 0.0
        self.silent = self.wedged = False
        self.cut = frozenset()
        self.error_code = self.error_left = self.drop_left = 0

    def delay_seconds(self, verb: str) -> float:
        """How much later this request is carried out."""
        return self.slow_seconds if _touches(self.slow_verbs, verb) else 0.0

    def take_error(self, verb: str) -> int | None:
        """The code to refuse this request with, or None."""
        if self.error_left == 0 or not _touches(self.error_verbs, verb):
            return None
        if self.error_left > 0:
            self.error_left -= 1
        return self.error_code

    def take_drop(self, verb: str) -> bool:
        """True when the answer of this request is to be lost after it was carried out."""
        if self.drop_left == 0 or not _touches(self.drop_verbs, verb):
            return False
        if self.drop_left > 0:
            self.drop_left -= 1
        return True


def _touches(verbs: frozenset[str], verb: str) -> bool:
    return (not verbs or verb in verbs) and not verb.startswith("Simulator.")
