"""`[api]` as an operator writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from oslo_config import cfg

from engine.api.options import GROUP, OPTS, ApiSettings


def settings(path: Path, text: str) -> ApiSettings:
    path.write_text(text)
    conf = cfg.ConfigOpts()
    conf.register_opts(OPTS, GROUP)
    conf(["--config-file", str(path)], project="engine")
    return ApiSettings.from_conf(conf)


def test_the_defaults_serve_this_machine_only(tmp_path: Path) -> None:
    found = settings(tmp_path / "engine.conf", "[DEFAULT]\n")
    assert (found, found.bind, found.allow_unauthenticated) == (ApiSettings(), "127.0.0.1:8420", False)


@pytest.mark.parametrize(("host", "bind"), [("0.0.0.0", "0.0.0.0:80"), ("::1", "[::1]:80")])
def test_the_values_of_the_file_are_used(tmp_path: Path, host: str, bind: str) -> None:
    text = (
        f"[api]\nhost = {host}\nport = 80\nworkers = 3\nallow_unauthenticated = true\ngraceful_seconds = 2\n"
    )
    found = settings(tmp_path / "engine.conf", text)
    assert found == ApiSettings(host=host, port=80, workers=3, allow_unauthenticated=True, graceful_seconds=2)
    assert found.bind == bind


@pytest.mark.parametrize("line", ["port = 65536", "port = http", "workers = 0", "graceful_seconds = 0"])
def test_a_value_out_of_range_is_refused_by_name(tmp_path: Path, line: str) -> None:
    with pytest.raises((cfg.ConfigFileValueError, ValueError), match=line.split(" ")[0]):
        settings(tmp_path / "engine.conf", f"[api]\n{line}\n")
