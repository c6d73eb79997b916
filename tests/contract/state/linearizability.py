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
from dataclasses import dataclass


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
    operations = sorted((o for o in history if o.kind != "read" or not o.unknown), key=lambda o: o.since)
    needed = sum(1 << at for at, o in enumerate(operations) if not o.unknown)
    everything = (1 << len(operations)) - 1
    tried: set[tuple[int, int | None]] = set()
    stack: list[tuple[int, int | None]] = [(0, None)]
    while stack:
        done, state = stack.pop()
        if (done, state) in tried:
            continue
        tried.add((done, state))
        if done & needed == needed:
            return True
        deadline = math.inf  # nobody may go before one that had ended when it began
        left = everything & ~done
        while left:
            at = (left & -left).bit_length() - 1
            left &= left - 1
            operation = operations[at]
            if operation.since > deadline:
                break
            deadline = min(deadline, operation.until)
            fits, after = applied(operation, state)
            if fits:
                stack.append((done | 1 << at, after))
    return False


def faults(operations: Iterable[Operation]) -> list[str]:
    """The keys whose history is not explainable."""
    by_key: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_key[operation.key].append(operation)
    return sorted(key for key, history in by_key.items() if not explainable(history))
