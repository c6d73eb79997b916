from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from engine.cli.zkcli import require_listener, server_of, shell
from engine.errors import InvalidInput, Unavailable


def test_the_command_reaches_zookeepers_shell_untouched() -> None:
    argv = shell("/usr/bin/java", "/jars/zookeeper.jar", "127.0.0.1:1", ["get", "-s", "/a b"])
    assert argv[0] == "/usr/bin/java"
    assert argv[-5:] == ["-server", "127.0.0.1:1", "get", "-s", "/a b"]
    assert argv[argv.index("-cp") + 1].endswith("/jars/zookeeper.jar")


def test_the_server_is_the_one_of_the_state_directory(tmp_path: Path) -> None:
    assert server_of(tmp_path) == "127.0.0.1:21810"
    (tmp_path / "endpoint").write_text(json.dumps({"zookeeper": "127.0.0.1:4711"}))
    assert server_of(tmp_path) == "127.0.0.1:4711"


def test_one_listening_server_of_several_is_enough() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        there, away = listening.getsockname()[1], closed.getsockname()[1]
        require_listener(f"127.0.0.1:{away},127.0.0.1:{there}/chroot")
        with pytest.raises(Unavailable, match="engine up"):
            require_listener(f"127.0.0.1:{away}")


@pytest.mark.parametrize("server", ["localhost", ":2181", "127.0.0.1:port", "a:1,b"])
def test_a_server_without_a_port_is_refused(server: str) -> None:
    with pytest.raises(InvalidInput, match="should look like"):
        require_listener(server.replace("a:1", "127.0.0.1:1"))
