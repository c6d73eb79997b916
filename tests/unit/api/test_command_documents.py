"""What the API shows of a command holds no secret, however deep a step has put it."""

from __future__ import annotations

from engine.api.commands import MASK, without_secrets


def test_secrets_are_masked_at_any_depth_and_nothing_else_is() -> None:
    shown = without_secrets(
        {"host_id": "h", "agent": {"username": "u", "password": "p"}, "tried": [{"password": "q"}, 1, None]}
    )
    assert shown == {
        "host_id": "h",
        "agent": {"username": "u", "password": MASK},
        "tried": [{"password": MASK}, 1, None],
    }


def test_a_secret_that_is_not_set_shows_as_not_set() -> None:
    assert without_secrets({"password": None}) == {"password": None}
