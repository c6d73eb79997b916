"""What is loaded as a task, and what is left out with a reason while the rest can be called."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest
from oslo_config import cfg

from engine.errors import NotFound
from engine.execution.catalogue import NAMESPACE, load_tasks
from engine.plugin import Task, TaskContext


class Fine(Task):
    options = (cfg.IntOpt("depth", default=3, help="How deep."),)

    async def run(self, context: TaskContext, arguments: Any) -> None:
        return None


class FromTheFuture(Fine):
    contract = 99


class NoTask:
    pass


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, f"{__name__}:{value}", NAMESPACE)


def test_only_what_can_be_called_is_in_the_catalogue(caplog: pytest.LogCaptureFixture) -> None:
    found = load_tasks(
        [
            point("fine", "Fine"),
            point("future", "FromTheFuture"),
            point("none", "NoTask"),
            EntryPoint("missing", "no.such.module:Task", NAMESPACE),
        ],
        read_options=lambda name, declared: {option.dest: 7 for option in declared},
    )
    assert set(found.tasks) == {"fine"}
    assert found.find("fine").values == {"depth": 7}
    assert "future is written for contract 99" in caplog.text
    with pytest.raises(NotFound, match="there is no task missing; there are fine"):
        found.find("missing")


def test_a_task_whose_options_are_not_usable_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(name: str, declared: object) -> dict[str, Any]:
        raise ValueError("depth must be positive")

    assert not load_tasks([point("fine", "Fine")], read_options=refuse).tasks
    assert "its options in [task_fine] are not usable: depth must be positive" in caplog.text
