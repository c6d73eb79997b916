"""`engine demo`: kills, freezes, drains and starts engines of a local cluster, and judges."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from cliff.command import Command
from rich.console import Console

from engine.cli.up import until_signalled
from engine.errors import EngineError
from engine.local_cluster.demo import run_demo
from engine.local_cluster.host_crash import HostCrash
from engine.local_cluster.judgement import VmVerdict
from engine.local_cluster.layout import Layout
from engine.local_cluster.live_change import LiveChange
from engine.local_cluster.result import Result
from engine.local_cluster.state import StateDirectory
from engine.local_cluster.timings import demo_layout

LIMIT_SECONDS = 170.0
"""The clean-up needs some more: all of it takes less than 180."""


class Demo(Command):
    """Run a cluster unattended, kill and freeze its engines, and check that nothing is missed or doubled.

    Fifty VMs are started and moved meanwhile. Exits 0 only if no host was unowned for longer than the
    limit of its step, no host that stayed lost a poll, none was asked by an engine of the past, the one
    that crashed was fenced once and its VMs were started once after that, no VM was on two hosts at once,
    nothing was sent twice, every command ended as it should, and every VM runs where the database says.
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
        parser.add_argument(
            "--patience",
            type=_patience,
            default=1.0,
            metavar="TIMES",
            help="stretch all limits of time so many times, on a machine that is busy (default: 1)",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        console = Console(stderr=parsed_args.json, highlight=False, soft_wrap=True)
        layout = demo_layout(hosts=parsed_args.hosts, tls=parsed_args.tls)
        results: list[Result | LiveChange | HostCrash] = []
        with _directory(parsed_args.state_dir) as (directory, keep):
            verdict, wrong = _judged(layout, directory, parsed_args.patience, console, results)
            for line in verdict.lines() if verdict else ():
                console.print(line)
            if wrong:
                keep()
                console.print(f"Logs and state are kept in {directory.root}.")
        if parsed_args.json:
            self.app.stdout.write(json.dumps(_document(results, verdict, wrong), indent=2) + "\n")
        console.print(f"FAILED: {wrong}." if wrong else "All invariants held: zero doubles, zero lost.")
        return 1 if wrong else 0


def _judged(
    layout: Layout,
    directory: StateDirectory,
    patience: float,
    console: Console,
    results: list[Result | LiveChange | HostCrash],
) -> tuple[VmVerdict | None, str]:
    """Run it; what became of the VMs, and what was wrong ("" when nothing was)."""
    verdict: VmVerdict | None = None
    limit_seconds = LIMIT_SECONDS * patience

    def say(result: Result | LiveChange | HostCrash) -> None:
        results.append(result)
        for line in result.lines():
            console.print(line)

    async def demo() -> None:
        nonlocal verdict
        async with asyncio.timeout(limit_seconds):
            verdict = await run_demo(layout, directory, patience=patience, progress=console.print, say=say)

    try:
        if not asyncio.run(until_signalled(demo())):
            return verdict, "it was interrupted"
    except TimeoutError as late:
        return verdict, str(late) or f"it was not over after {limit_seconds:.0f} s"
    except ExceptionGroup as group:
        error = _first(group)
        if not isinstance(error, EngineError | httpx.HTTPError):
            raise
        return verdict, str(error) or repr(error)
    return verdict, wrong_in(results, verdict)


def wrong_in(results: Sequence[Result | LiveChange | HostCrash], verdict: VmVerdict | None) -> str:
    """What was wrong first, and how much more; "" when all was well."""
    failures = [f"{result.step}: {failure}" for result in results for failure in result.failures]
    failures += ["it ended before the VMs were judged"] if verdict is None else verdict.failures
    if not failures:
        return ""
    first = failures[0].partition("\n")[0]  # the end of a log may follow
    return first + (f" (and {len(failures) - 1} more, see above)" if len(failures) > 1 else "")


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _document(
    results: Sequence[Result | LiveChange | HostCrash], verdict: VmVerdict | None, wrong: str
) -> dict[str, Any]:
    return {
        "ok": not wrong,
        "wrong": wrong,
        "steps": [result.summary() for result in results if isinstance(result, Result)],
        "live_change": next((each.summary() for each in results if isinstance(each, LiveChange)), None),
        "host_crash": next((each.summary() for each in results if isinstance(each, HostCrash)), None),
        "vms": dataclasses.asdict(verdict) if verdict else None,
    }


def _patience(text: str) -> float:
    times = float(text)
    if not 1 <= times <= 100:
        raise argparse.ArgumentTypeError("must be from 1 to 100")
    return times


@contextlib.contextmanager
def _directory(option: str | None) -> Iterator[tuple[StateDirectory, Callable[[], None]]]:
    """The directory that was named; or a temporary one, which is removed unless the second is called."""
    if option:
        yield StateDirectory(Path(option).expanduser()), lambda: None
        return
    with contextlib.ExitStack() as stack:
        root = Path(tempfile.mkdtemp(prefix="engine-demo-"))
        stack.callback(shutil.rmtree, root, ignore_errors=True)

        def keep() -> None:
            stack.pop_all()

        yield StateDirectory(root), keep
