"""`engine demo`: kills, freezes, drains and starts engines of a local cluster, and judges."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cliff.command import Command
from rich.console import Console

from engine.cli.up import until_signalled
from engine.local_cluster.demo import Result, demo_layout, run_demo
from engine.local_cluster.state import StateDirectory

LIMIT_SECONDS = 120.0


class Demo(Command):
    """Run a cluster unattended, kill and freeze its engines, and check that no host is missed.

    Exits 0 only if no host was unowned for longer than the limit of its step, no host that stayed
    lost a poll, and none was asked by an engine of the past.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
        parser.add_argument(
            "--state-dir", metavar="DIR", help="keep state and logs in DIR (default: a temporary one)"
        )
        parser.add_argument(
            "--hosts", type=int, default=24, metavar="N", help="simulated hosts (default: 24)"
        )
        parser.add_argument("--tls", action="store_true", help="mutual TLS between engines and hosts")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        console = Console(stderr=parsed_args.json, highlight=False, soft_wrap=True)
        layout = demo_layout(hosts=parsed_args.hosts, tls=parsed_args.tls)
        results: list[Result] = []

        def say(result: Result) -> None:
            results.append(result)
            for line in result.lines():
                console.print(line)

        async def demo(directory: StateDirectory) -> None:
            async with asyncio.timeout(LIMIT_SECONDS):
                await run_demo(layout, directory, progress=console.print, say=say)

        with _directory(parsed_args.state_dir) as directory:
            finished = asyncio.run(until_signalled(demo(directory)))
        good = finished and all(result.ok for result in results)
        if parsed_args.json:
            document = {"ok": good, "steps": [result.summary() for result in results]}
            self.app.stdout.write(json.dumps(document, indent=2) + "\n")
        console.print("All invariants held." if good else "FAILED: see above.")
        return 0 if good else 1


@contextlib.contextmanager
def _directory(option: str | None) -> Iterator[StateDirectory]:
    if option:
        yield StateDirectory(Path(option).expanduser())
        return
    with tempfile.TemporaryDirectory(prefix="engine-demo-") as path:
        yield StateDirectory(Path(path))
