"""`[database]` as an operator writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from oslo_config import cfg

from engine.db.options import GROUP, OPTS, DatabaseSettings


def settings(path: Path, text: str) -> DatabaseSettings:
    path.write_text(text)
    conf = cfg.ConfigOpts()
    conf.register_opts(OPTS, GROUP)
    conf(["--config-file", str(path)], project="engine")
    return DatabaseSettings.from_conf(conf)


def test_the_values_of_the_file_are_used(tmp_path: Path) -> None:
    text = "[database]\nurl = sqlite+aiosqlite:////tmp/x.db\nbusy_timeout_seconds = 1.5\npool_size = 2\n"
    assert settings(tmp_path / "engine.conf", text) == DatabaseSettings(
        url="sqlite+aiosqlite:////tmp/x.db", busy_timeout_seconds=1.5, pool_size=2
    )


@pytest.mark.parametrize(
    "line", ["pool_size = 0", "pool_size = many", "busy_timeout_seconds = -1", "url = mysql://x/y"]
)
def test_a_value_out_of_range_is_refused_by_name(tmp_path: Path, line: str) -> None:
    with pytest.raises((cfg.ConfigFileValueError, ValueError), match=line.split(" ")[0]):
        settings(tmp_path / "engine.conf", f"[database]\n{line}\n")
