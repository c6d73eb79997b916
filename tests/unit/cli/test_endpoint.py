from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.cli.endpoint import DEFAULT_API_URL, DEFAULT_ZOOKEEPER, find_endpoint, state_directory
from engine.errors import InvalidInput


def write(directory: Path, **values: object) -> dict[str, str]:
    """An environment whose state directory holds an `endpoint` file."""
    home = directory / "engine-ha"
    home.mkdir()
    (home / "endpoint").write_text(json.dumps(values))
    return {"XDG_STATE_HOME": str(directory)}


def test_the_state_directory_is_the_option_then_xdg_then_the_home_then_here() -> None:
    everything = {"XDG_STATE_HOME": "/xdg", "HOME": "/home/a"}
    assert state_directory("/given", everything) == Path("/given")
    assert state_directory(None, everything) == Path("/xdg/engine-ha")
    assert state_directory(None, {"HOME": "/home/a"}) == Path("/home/a/.local/state/engine-ha")
    assert state_directory(None, {}) == Path(".engine-state")


def test_a_relative_xdg_state_home_is_ignored_as_its_specification_asks() -> None:
    environ = {"XDG_STATE_HOME": "state", "HOME": "/home/a"}
    assert state_directory(None, environ) == Path("/home/a/.local/state/engine-ha")


def test_the_api_is_the_option_then_the_environment_then_the_file_then_the_default(tmp_path: Path) -> None:
    environ = write(tmp_path, api="http://127.0.0.1:1111", zookeeper="127.0.0.1:2222")
    both = {**environ, "ENGINE_API_URL": "http://from-environment:8420/"}
    assert find_endpoint(api_url="https://given/", environ=both).api_url == "https://given"
    assert find_endpoint(environ=both).api_url == "http://from-environment:8420"
    found = find_endpoint(environ=environ)
    assert (found.api_url, found.zookeeper) == ("http://127.0.0.1:1111", "127.0.0.1:2222")
    assert found.source.endswith("engine-ha/endpoint")
    nothing = find_endpoint(environ={"HOME": str(tmp_path / "nobody")})
    assert (nothing.api_url, nothing.zookeeper) == (DEFAULT_API_URL, DEFAULT_ZOOKEEPER)


def test_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    environ = {"ENGINE_API_URL": "", "HOME": str(tmp_path)}
    assert find_endpoint(environ=environ).api_url == DEFAULT_API_URL


@pytest.mark.parametrize("content", ["", "{", "[]", '"http://x"'])
def test_an_endpoint_file_that_holds_something_else_is_named_with_the_remedy(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "endpoint").write_text(content)
    with pytest.raises(InvalidInput, match=r"endpoint.*--api-url"):
        find_endpoint(state_dir=str(tmp_path), environ={})


def test_what_is_no_url_is_refused_with_the_name_of_who_said_it() -> None:
    with pytest.raises(InvalidInput, match=r"ENGINE_API_URL: 'localhost:8420'"):
        find_endpoint(environ={"ENGINE_API_URL": "localhost:8420"})
