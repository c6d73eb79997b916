"""How long a faulty singleton rests before it may try here again. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BackOff:
    """From `first_seconds`, doubled at each failure in a row, up to `longest_seconds`."""

    first_seconds: float = 1.0
    longest_seconds: float = 60.0

    def seconds(self, failures: int, chance: float) -> float:
        """The rest after the n-th failure in a row; `chance` (0 to 1) spreads it by a quarter each way,
        so that engines which failed together do not come back together."""
        doubled = self.first_seconds * 2.0 ** min(failures - 1, 32)
        return min(self.longest_seconds, doubled) * (0.75 + chance / 2)
