"""`engine up` and `engine down`: a whole cluster on this machine."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

from cliff.command import Command
from rich.console import Console

from engine.cli.endpoint import state_directory
from engine.local_cluster.cluster import LocalCluster
from engine.local_cluster.display import show
from engine.local_cluster.layout import Layout
from engine.local_cluster.state import StateDirectory, stop_cluster


def add_layout_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say what the cluster consists of."""
    defaults = Layout()
    parser.add_argument(
        "--state-dir", metavar="DIR", help="where its state lives (default: under the XDG state home)"
    )
    for name, meaning in (
        ("engines", "how many engines (1..16)"),
        ("hosts", "how many simulated hosts (0..20000)"),
        ("api-port", "port of the API on 127.0.0.1; 0 = any free"),
        ("zk-port", "port of ZooKeeper on 127.0.0.1; 0 = any free"),
        ("host-port", "first port of the simulated hosts; 0 = any free"),
        ("shards", "number of shards; fixed when the cluster is made"),
    ):
        default = getattr(defaults, name.replace("-", "_"))
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{meaning} (default: {default})"
        )
    parser.add_argument(
        "--partitioner", default=defaults.partitioner, help="who divides the hosts: cooperative or kazoo"
    )
    parser.add_argument(
        "--database-url",
        metavar="URL",
        help="a database that runs already, for example postgresql+asyncpg://user:password@127.0.0.1/engine"
        " (default: an SQLite file in the state directory)",
    )
    parser.add_argument(
        "--tls", action="store_true", help="mutual TLS between engines and hosts, and between engines"
    )


def layout_from(arguments: argparse.Namespace) -> Layout:
    names = (
        *("engines", "hosts", "api_port", "zk_port", "host_port"),
        *("shards", "partitioner", "database_url", "tls"),
    )
    return Layout(**{name: getattr(arguments, name) for name in names})


class Up(Command):
    """Run a whole cluster on this machine: ZooKeeper, engines, API, and a simulated fleet of hosts.

    Shows a live status until Ctrl-C, which stops everything. State survives in the state directory.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_layout_arguments(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        directory = StateDirectory(state_directory(parsed_args.state_dir))
        console = Console()
        if not asyncio.run(until_signalled(_up(layout_from(parsed_args), directory, console))):
            console.print("stopped")


async def until_signalled(work: Coroutine[Any, Any, None]) -> bool:
    """Run `work` to its end, or cancel it, and wait for its clean-up, on SIGINT, SIGTERM or SIGHUP.

    True if it ended by itself. A second signal does not cut the clean-up short: that would leave
    processes behind.
    """
    task = asyncio.create_task(work, name="work")
    stopped = False

    def stop() -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        if not stopped:
            raise
    return not stopped


async def _up(layout: Layout, directory: StateDirectory, console: Console) -> None:
    def say(what: str) -> None:
        console.print(f"starting {what} ...", highlight=False)

    async with LocalCluster(layout, directory, progress=say) as cluster:
        await cluster.ready()
        console.print(cluster.next_lines(), highlight=False, soft_wrap=True)
        async with asyncio.TaskGroup() as group:
            group.create_task(cluster.watch(), name="watch-children")
            group.create_task(show(cluster.api_url, console), name="display")


class Down(Command):
    """Stop the cluster of a state directory, and whatever a killed `engine up` left behind."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("--state-dir", metavar="DIR", help="the state directory of `engine up`")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        directory = StateDirectory(state_directory(parsed_args.state_dir))
        done = stop_cluster(directory)
        for line in done or [f"nothing runs in {directory.root}"]:
            self.app.stdout.write(line + "\n")
