from __future__ import annotations

import pytest

from engine.cli.client import refusal
from engine.cli.main import exit_code
from engine.errors import EngineError, InvalidInput


def problem(status: int, **more: object) -> EngineError:
    return refusal(status, {"title": "Title", "detail": "what happened", **more})


def test_a_refusal_is_told_with_title_detail_and_each_bad_field() -> None:
    error = problem(409, fields={"name": "is taken by another host", "port": "is odd"})
    assert str(error) == "Title: what happened\n  name: is taken by another host\n  port: is odd"


def test_a_field_that_the_detail_tells_already_is_not_told_twice() -> None:
    error = refusal(
        422,
        {"title": "Bad", "detail": "port must be a number", "fields": {"port": "must be a number"}},
    )
    assert str(error) == "Bad: port must be a number"
    assert isinstance(error, InvalidInput)
    assert error.fields == {"port": "must be a number"}


def test_a_failure_of_the_api_names_the_request_for_its_log() -> None:
    assert str(problem(500, request_id="abc")).endswith("\n  request: abc")
    assert "abc" not in str(problem(404, request_id="abc"))


def test_a_document_without_anything_still_says_something() -> None:
    assert str(refusal(502, {})) == "HTTP 502"


@pytest.mark.parametrize(("status", "code"), [(404, 4), (409, 5), (422, 1), (400, 1), (503, 1), (403, 1)])
def test_the_exit_code_tells_not_found_and_conflict_apart(status: int, code: int) -> None:
    assert exit_code(problem(status)) == code
