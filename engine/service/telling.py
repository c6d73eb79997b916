"""Which of several errors at once is the one to act on."""

from __future__ import annotations

from collections.abc import Iterator

from engine.errors import Conflict, EngineError, InvalidInput


def most_telling(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error to act on: a defect (the whole group) before a refusal, that before the rest."""
    leaves = list(_leaves(group))
    if any(not isinstance(leaf, EngineError) for leaf in leaves):
        return group
    refusals = [leaf for leaf in leaves if isinstance(leaf, Conflict | InvalidInput)]
    return (refusals or leaves)[0]


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
