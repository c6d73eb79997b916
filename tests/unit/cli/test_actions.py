"""A command is followed to its end, and what did not succeed is an error with its reason."""

from __future__ import annotations

from typing import Any

import pytest

from engine.cli.actions import act, path_to
from engine.cli.client import Api
from engine.cli.endpoint import Endpoint
from engine.errors import Conflict


class Answers(Api):
    """The API's answers, in order; `asked` is what it was asked."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        super().__init__(Endpoint(api_url="http://api", source="the test", zookeeper="zk:2181"))
        self.asked: list[str] = []
        self._answers = list(answers)

    def _request(self, method: str, url: str, **content: Any) -> dict[str, Any]:
        self.asked.append(f"{method} {url.removeprefix('http://api')} {content.get('params') or ''}".strip())
        return self._answers.pop(0)


def command(state: str, *, ended: bool = False, error: str = "") -> dict[str, Any]:
    ended_at = "2026-01-01T00:00:00Z" if ended else None
    return {
        "id": "c1",
        "type": "run_vm",
        "state": state,
        "percent": 0,
        "message": "",
        "error": error,
        "ended_at": ended_at,
    }


def test_without_wait_the_command_is_given_as_it_was_accepted() -> None:
    api = Answers(command("queued"))
    assert act(api, path_to("vms", "a/b", "run"), {}, wait=False)["state"] == "queued"
    assert api.asked == ["POST /v1/vms/a%2Fb/run"]


def test_with_wait_it_is_followed_to_its_end() -> None:
    api = Answers(command("queued"), command("running"), command("succeeded", ended=True))
    assert act(api, "/v1/vms/a/run", {}, wait=True)["state"] == "succeeded"
    assert api.asked[0] == "POST /v1/vms/a/run"
    assert len(api.asked) == 3


@pytest.mark.parametrize(
    "end", [command("failed", ended=True, error="no host"), command("needs_operator", error="no host")]
)
def test_what_did_not_succeed_is_an_error_that_says_why(end: dict[str, Any]) -> None:
    with pytest.raises(Conflict, match=r"run_vm .*: no host"):
        act(Answers(command("queued"), end), "/v1/vms/a/run", {}, wait=True)
