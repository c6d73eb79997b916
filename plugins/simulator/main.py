"""`engine-simulator`: a fleet of simulated VDSM hosts on this machine, one port a host.

Prints one line of JSON once every port listens (`ports` are runs, the first and last of each;
`base_port` is the first of all), and ends with status 0 on SIGTERM or Ctrl-C, its ports closed. What
went wrong at the start is one line on stderr and status 1. `engine-simulator ctl` commands a fleet.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import orjson

from plugins.simulator import ctl
from plugins.simulator.door import NoDoor
from plugins.simulator.fleet import PortTaken
from plugins.simulator.machines import Pace
from plugins.simulator.ports import free_ports, runs
from plugins.simulator.processes import (
    Settings,
    StartFailed,
    die_with,
    fork_branches,
    raise_descriptor_limit,
    run_trunk,
    split,
)
from plugins.simulator.tls import client_context, server_context, use_small_buffers

_DEFAULT_BASE_PORT = 20_000
_MIB = 1024 * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point. Returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["ctl"]:
        return ctl.main(arguments[1:])
    parser = _parser()
    options = parser.parse_args(arguments)
    options.tls = tuple(filter(None, (options.tls_cert, options.tls_key, options.tls_ca)))
    if len(options.tls) not in (0, 3):
        parser.error("--tls-cert, --tls-key and --tls-ca belong together")
    if options.base_port + options.hosts > 65_536:
        parser.error(f"{options.hosts} hosts from port {options.base_port} go beyond port 65535")
    if options.die_with_parent:
        die_with(os.getppid())
    try:
        _run(options)
    except (StartFailed, PortTaken, NoDoor, OSError) as error:
        print(f"engine-simulator: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    a_process = raise_descriptor_limit()
    settings = Settings(
        log=options.log,
        log_limit_bytes=options.log_limit_mib * _MIB,
        pace=Pace(boot_seconds=options.boot_seconds, migrate_seconds=options.migrate_seconds),
        server_tls=server_context(*options.tls) if options.tls else None,
        client_tls=client_context(*options.tls) if options.tls else None,
    )
    use_small_buffers()
    first = options.base_port
    ports = range(first, first + options.hosts) if first else free_ports(options.hosts)
    shares = split(ports, a_process=a_process, at_least=options.processes)
    branches = fork_branches(settings, shares[1:])

    def on_ready(ssh_port: int | None) -> None:
        line = {
            "ready": True,
            "hosts": len(ports),
            "base_port": ports[0],
            "ports": runs(ports),
            "tls": settings.server_tls is not None,
            "processes": [os.getpid(), *(branch.pid for branch in branches)],
            "control": options.control and str(options.control),
            "log": options.log and str(options.log),
            "ssh_port": ssh_port,
        }
        print(orjson.dumps(line).decode(), flush=True)

    asyncio.run(run_trunk(settings, shares[0], branches, options.control, on_ready, ssh=options.ssh))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="engine-simulator",
        description="Simulate a fleet of VDSM hosts on 127.0.0.1, one port a host.",
        epilog="`engine-simulator ctl --help` tells how to command a running fleet.",
    )
    add = parser.add_argument
    add("--hosts", type=_hosts, default=3, metavar="N", help="how many hosts (default: %(default)s)")
    add(
        "--base-port",
        type=_port,
        default=_DEFAULT_BASE_PORT,
        metavar="PORT",
        help="port of the first host, the others follow; 0: any free ones (default: %(default)s)",
    )
    add("--tls-cert", type=Path, metavar="FILE", help="serve mutual TLS with this certificate (PEM)")
    add("--tls-key", type=Path, metavar="FILE", help="its private key (PEM)")
    add(
        "--tls-ca",
        type=Path,
        metavar="FILE",
        help="the authority that signed the clients' certificates (PEM)",
    )
    add("--control", type=Path, metavar="PATH", help="unix socket for `engine-simulator ctl`")
    add("--log", type=Path, metavar="DIR", help="directory for the log of all requests")
    add(
        "--log-limit-mib",
        type=int,
        default=1024,
        metavar="N",
        help="size at which a process's log file is replaced; the one before is kept (default: %(default)s)",
    )
    add(
        "--ssh",
        type=Path,
        metavar="DIR",
        help="serve SSH, by which agents are started again; its keys are in DIR (made if they are missing)",
    )
    add("--processes", type=int, default=1, metavar="N", help="use at least so many processes")
    add("--boot-seconds", type=float, default=0.4, metavar="S", help="how long a VM boots")
    add("--migrate-seconds", type=float, default=0.5, metavar="S", help="how long a migration takes")
    add("--die-with-parent", action="store_true", help="end when the process that started this one ends")
    return parser


def _hosts(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 65_535:
        raise argparse.ArgumentTypeError("must be from 1 to 65535")
    return number


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65_535:
        raise argparse.ArgumentTypeError("must be from 0 to 65535")
    return number


if __name__ == "__main__":
    sys.exit(main())
