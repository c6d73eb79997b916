"""`engine node`: one engine with its supervisor, for real deployments."""

from __future__ import annotations

import argparse
import os
import sys

from cliff.command import Command


class Node(Command):
    """Run one engine under its supervisor until SIGTERM, which drains it.

    Meant for systemd (Type=notify): READY once the engine has joined, WATCHDOG while its loop
    runs, STOPPING when it drains.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            "--config-file",
            action="append",
            metavar="FILE",
            help="configuration file; may be given more than once (default: /etc/engine/engine.conf)",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        files = parsed_args.config_file or ["/etc/engine/engine.conf"]
        for path in files:
            if not os.access(path, os.R_OK):
                raise RuntimeError(f"{path} cannot be read; name a configuration file with --config-file")
        # The supervisor replaces this process: it stays small, and systemd sees one main process.
        argv = [sys.executable, "-m", "engine.supervisor"]
        os.execv(sys.executable, argv + [f"--config-file={path}" for path in files])
