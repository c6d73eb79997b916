"""What the program does without an API: help, wrong usage, and telling that nobody answers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.coordination.local import LocalServer
from engine.ports import free_port
from tests.contract.cli.conftest import run_engine, run_here

COMMANDS = (
    "status",
    "members list",
    "shards list",
    "shards show",
    "hosts list",
    "hosts show",
    "hosts add",
    "hosts remove",
    "events list",
    "singletons list",
    "singletons show",
    "singletons move",
    "singletons pause",
    "singletons resume",
    "singletons run-now",
    "config get",
    "db upgrade",
    "secrets new-key",
    "zkcli",
)


def test_help_names_every_command_and_the_exit_codes() -> None:
    run = run_engine("--help")
    assert run.code == 0
    assert not [name for name in COMMANDS if f"  {name} " not in run.out]
    assert "4 not found" in run.out


def test_without_a_command_the_help_is_shown() -> None:
    assert run_here().out == run_here("--help").out == run_here("help").out


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str) -> None:
    run = run_here(*command.split(), "--help")
    assert (run.code, run.err) == (0, "")
    assert f"usage: engine {command}" in run.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("--nonsense",),
        ("hosts", "list", "--nonsense"),
        ("hosts",),
        ("hosts", "add"),
        ("frobnicate",),
        ("help", "frobnicate"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...]) -> None:
    run = run_here(*arguments)
    assert run.code == 2
    assert "engine" in run.err + run.out


def test_a_near_miss_is_answered_with_what_there_is() -> None:
    assert "hosts list" in run_engine("hosts").out


@pytest.mark.parametrize("command", [("status",), ("hosts", "list"), ("members", "list"), ("config", "get")])
def test_when_no_api_answers_one_sentence_says_so_and_what_to_do(command: tuple[str, ...]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    run = run_engine(*command, "--api-url", url)
    assert (run.code, run.out) == (1, "")
    assert run.err.count("\n") == 1
    assert run.err.startswith(f"engine: the API at {url} (--api-url) cannot be reached")
    assert "engine up" in run.err


def test_something_else_that_answers_is_not_taken_for_the_api(tmp_path: Path) -> None:
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(tmp_path), str(port)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            run = run_engine("status", "--api-url", f"http://127.0.0.1:{port}")
            if "cannot be reached" not in run.err or time.monotonic() > deadline:
                break
    finally:
        server.terminate()
        server.wait()
    assert run.code == 1
    assert "is this the engine's API?" in run.err


def test_a_proxy_of_the_environment_is_not_asked_for_a_loopback_address() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    run = run_engine("status", "--api-url", url, HTTP_PROXY="http://192.0.2.1:3128")
    assert "cannot be reached" in run.err
    assert "Connection refused" in run.err


def test_db_upgrade_makes_a_database_and_finds_nothing_to_do_the_second_time(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'new.db'}"
    first = run_engine("db", "upgrade", "--url", url)
    assert (first.code, first.err) == (0, "")
    assert first.out.startswith("no schema -> ")
    second = run_engine("db", "upgrade", "--url", url)
    assert second.out.startswith("already at ")


def test_db_upgrade_takes_the_database_of_a_configuration_file(tmp_path: Path) -> None:
    config = tmp_path / "engine.conf"
    config.write_text(f"[database]\nurl = sqlite+aiosqlite:///{tmp_path / 'new.db'}\n")
    assert run_engine("db", "upgrade", "--config-file", str(config)).code == 0
    assert (tmp_path / "new.db").exists()


def test_db_upgrade_without_a_configuration_says_how_to_name_one() -> None:
    run = run_engine("db", "upgrade", "--config-file", "/nowhere/engine.conf")
    assert run.code == 1
    assert "--config-file" in run.err
    assert "/nowhere/engine.conf" in run.err


def test_zkcli_runs_zookeepers_shell_with_its_options_and_exit_code(
    zookeeper: LocalServer, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "endpoint").write_text(json.dumps({"zookeeper": zookeeper.hosts}))
    listed = run_engine("zkcli", "--state-dir", str(state), "ls", "-R", "/zookeeper")
    assert listed.code == 0
    assert "/zookeeper/quota" in listed.out.splitlines()
    assert "ERROR" not in listed.err
    missing = run_engine("zkcli", "--server", zookeeper.hosts, "get", "-s", "/not/there")
    assert missing.code == 1
    assert "Node does not exist" in missing.err


def test_zkcli_says_at_once_that_no_server_listens() -> None:
    run = run_engine("zkcli", "--server", f"127.0.0.1:{free_port()}", "ls", "/")
    assert run.code == 1
    assert "no ZooKeeper server can be reached" in run.err


def test_help_imports_nothing_that_commands_need() -> None:
    program = """\
import sys
from engine.cli.main import main
try:
    main(["--help"])
except SystemExit:
    print(sorted({"alembic", "falcon", "httpx", "kazoo", "oslo_config", "sqlalchemy"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_key_file_is_made_and_a_later_key_is_put_in_front(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    assert run_here("secrets", "new-key", str(file)).code == 0
    first = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert run_here("secrets", "new-key", str(file)).code == 0
    assert file.read_text().endswith(first)
    assert len(file.read_text().splitlines()) == 2
    nowhere = run_here("secrets", "new-key", str(tmp_path / "no" / "keys"))
    assert (nowhere.code, "cannot be written: No such file" in nowhere.err) == (1, True)
