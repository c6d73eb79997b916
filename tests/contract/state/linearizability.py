"""Whether a history of one key can have come from one register that was used by one after the other.

The search is Wing and Gong's with Lowe's memory of what was tried (G. Lowe, "Testing for linearizability",
2017): operations are taken in an order that respects who was done before whom began, and each must have
answered as the register does. An operation whose outcome is unknown may have happened at any time after
its beginning, or never.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

UNSEEN = -1
"""Stands for all values that nobody read or swapped."""

_Place = tuple[int, int, int, int | None]


@dataclass(frozen=True, slots=True)
class Operation:
    """`kind`: put, put_if_absent, replace, remove, swap (from `expected`) or read. `answer` is True or
    False, for a read the value; `until` is infinite where nobody knows the outcome. Values are unique."""

    key: str
    kind: str
    value: int | None
    expected: int | None
    answer: bool | int | None
    since: float
    until: float = math.inf

    @property
    def unknown(self) -> bool:
        return math.isinf(self.until)


def applied(operation: Operation, state: int | None) -> tuple[bool, int | None]:
    """Whether the register would have answered so, and what it holds then."""
    match operation.kind:
        case "read":
            return operation.answer == state, state
        case "put":
            done = True
        case "put_if_absent":
            done = state is None
        case "replace" | "remove":
            done = state is not None
        case "swap":
            done = state is not None and state == operation.expected
        case other:
            raise ValueError(other)
    written = None if operation.kind == "remove" else operation.value
    fits = operation.unknown or operation.answer is done
    return fits, written if done else state


def explainable(history: Iterable[Operation]) -> bool:
    """Of one key."""
    return _Search(history).succeeds()


class _Search:
    """A place in the search is how many known operations are done without a gap, which are done beyond the
    gap, which of the unknown ones happened, and what the register holds.

    Two rules keep it small and lose nothing. An unknown operation is only tried where some known one cannot
    go next without it: it may as well happen late. Of unknown ones that do the same, the earliest is
    tried; values that nobody ever saw are the same value.
    """

    def __init__(self, history: Iterable[Operation]) -> None:
        operations = sorted(history, key=lambda operation: operation.since)
        seen = {o.answer for o in operations if o.kind == "read"} | {o.expected for o in operations}
        operations = [o if o.value in seen else replace(o, value=UNSEEN) for o in operations]
        self.known = [o for o in operations if not o.unknown]
        self.unknown = [o for o in operations if o.unknown and o.kind != "read"]

    def succeeds(self) -> bool:
        tried: set[_Place] = set()
        stack: list[_Place] = [(0, 0, 0, None)]
        while stack:
            place = stack.pop()
            if place in tried:
                continue
            tried.add(place)
            if place[0] == len(self.known):
                return True
            stack += self._next(place)
        return False

    def _next(self, place: _Place) -> list[_Place]:
        """Where to go from here; the best guess last."""
        first, beyond, happened, state = place
        found: list[_Place] = []
        stuck = False
        deadline = math.inf  # nobody may go before one that had ended when it began
        for at in range(first, len(self.known)):
            operation = self.known[at]
            if operation.since > deadline:
                break
            bit = 1 << (at - first)
            if beyond & bit:
                continue
            deadline = min(deadline, operation.until)
            fits, after = applied(operation, state)
            if fits:
                found.append((*_closed(first, beyond | bit), happened, after))
            stuck = stuck or not fits
        return self._unknown_ones(place, deadline) + found[::-1] if stuck else found[::-1]

    def _unknown_ones(self, place: _Place, deadline: float) -> list[_Place]:
        first, beyond, happened, state = place
        found: list[_Place] = []
        alike: set[tuple[str, int | None, int | None]] = set()
        for at, operation in enumerate(self.unknown):
            if operation.since > deadline:
                break
            what = (operation.kind, operation.value, operation.expected)
            if happened & 1 << at or what in alike:
                continue
            alike.add(what)
            after = applied(operation, state)[1]
            if after != state:
                found.append((first, beyond, happened | 1 << at, after))
        return found


def _closed(first: int, beyond: int) -> tuple[int, int]:
    """With the gap moved behind what is done."""
    done = (~beyond & (beyond + 1)).bit_length() - 1
    return first + done, beyond >> done


def faults(operations: Iterable[Operation]) -> list[str]:
    """The keys whose history is not explainable."""
    by_key: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_key[operation.key].append(operation)
    return sorted(key for key, history in by_key.items() if not explainable(history))
