"""What one step of the demo did, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(slots=True)
class Result:
    """What one step did. Seconds; `unowned` holds one figure for each move of a host; `under_way`: the
    commands that had not ended when it began."""

    step: str
    engine: str
    took: float = 0.0
    unowned: list[float] = field(default_factory=list)
    limit: float = 0.0
    lost_polls: list[str] = field(default_factory=list)
    asked_by_two: int = 0
    under_way: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.failures

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"{'ok  ' if self.ok else 'FAIL'} {self.step} ({self.engine}), settled after {self.took:.1f} s;"
            f" {self.under_way} commands were under way"
        ]
        if self.unowned:
            lines.append(
                f"     {len(self.unowned)} moves of hosts; unowned for {median(self.unowned) * 1000:.0f} ms"
                f" (median), {max(self.unowned) * 1000:.0f} ms (most), limit {self.limit * 1000:.0f} ms"
            )
        lines.append(
            f"     {len(self.lost_polls)} hosts that did not move lost a poll;"
            f" {self.asked_by_two} requests by an owner of the past"
        )
        return lines + [f"     {failure}" for failure in self.failures]

    def summary(self) -> dict[str, Any]:
        """For JSON: all fields, the unowned times summed up."""
        shown = asdict(self)
        shown["unowned"] = {
            "moves": len(self.unowned),
            "median": median(self.unowned) if self.unowned else 0.0,
            "max": max(self.unowned, default=0.0),
        }
        shown["ok"] = self.ok
        return shown
