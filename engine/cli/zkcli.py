"""`engine zkcli`: ZooKeeper's own shell, on the class path and the Java that the engine uses.

The shell replaces this process, so its exit code, its prompt and Ctrl-C are its own. That some server
listens is looked at first, since the shell would wait half a minute to say so.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from cliff.command import Command

from engine.cli.endpoint import DEFAULT_ZOOKEEPER, ENDPOINT_FILE, read_endpoint_file, state_directory
from engine.errors import InvalidInput, Unavailable

CONNECT_SECONDS = 3.0

_MAIN = "org.apache.zookeeper.ZooKeeperMain"
# Line editing on Debian: the manifest of ZooKeeper's jar names jline 1, its shell wants jline 2.
_LINE_EDITING = ("/usr/share/java/jline2.jar", "/usr/share/java/jansi1.jar")
# Each logger that some release of ZooKeeper brings, told to keep quiet.
_QUIET = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
    "-Dorg.slf4j.simpleLogger.log.org.apache.zookeeper.util.ServiceUtils=off",  # it calls exit 0 an error
    "-Dzookeeper.root.logger=ERROR,CONSOLE",
)


class ZkCli(Command):
    """Run ZooKeeper's own shell, or one command of it.

    Try `engine zkcli ls -R /engine` and `engine zkcli get /engine/default/shards/0000`.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--server",
            metavar="HOST:PORT[,...]",
            help=f"ZooKeeper (default: that of `engine up`, else {DEFAULT_ZOOKEEPER})",
        )
        parser.add_argument("--state-dir", metavar="DIR", help="state directory of `engine up`")
        parser.add_argument(
            "command",
            nargs=argparse.REMAINDER,
            help="a command of the shell with its options; without one the shell is interactive",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        from engine.coordination.distribution import find_zookeeper

        server = parsed_args.server or server_of(state_directory(parsed_args.state_dir))
        found = find_zookeeper()
        require_listener(server)
        argv = shell(found.java, found.class_path, server, parsed_args.command)
        sys.stdout.flush()
        os.execv(found.java, argv)


def server_of(directory: Path) -> str:
    """The `host:port` that the state directory's `endpoint` file names, else the default."""
    return read_endpoint_file(directory / ENDPOINT_FILE).get("zookeeper", DEFAULT_ZOOKEEPER)


def shell(java: str, class_path: str, server: str, command: Sequence[str]) -> list[str]:
    """The argument vector of ZooKeeper's shell."""
    editing = [jar for jar in _LINE_EDITING if os.path.exists(jar)]
    path = os.pathsep.join([*editing, class_path])
    return [java, "-cp", path, "-XX:TieredStopAtLevel=1", *_QUIET, _MAIN, "-server", server, *command]


def require_listener(servers: str) -> None:
    """Raise `Unavailable` unless one of `host:port,host:port/chroot` takes a connection."""
    reasons = []
    for address in servers.partition("/")[0].split(","):
        host, _, port = address.strip().rpartition(":")
        if not host or not port.isdigit():
            raise InvalidInput(f"{address!r} is no ZooKeeper server; it should look like {DEFAULT_ZOOKEEPER}")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS):
                return
        except (OSError, OverflowError) as error:
            reasons.append(f"{address}: {error}")
    raise Unavailable(
        f"no ZooKeeper server can be reached ({'; '.join(reasons)}). Start a cluster with "
        "`engine up`, or name a server with --server."
    )
