"""`engine-simulator ctl`: command a running fleet from a shell.

Every command is one of `plugins.simulator.commands`; what the hosts said is printed as JSON, one line a
host. Status 1 and one line on stderr when the fleet refuses or is not there.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from plugins.simulator.control import LinkClosed, Refused, open_simulator

_ON = ("--off", {"dest": "on", "action": "store_false", "help": "no longer"})
_VERBS = (
    "--verbs",
    {"nargs": "+", "default": [], "metavar": "VERB", "help": "only these, such as VM.create (default: all)"},
)
_COUNT = (
    "--count",
    {"type": int, "default": -1, "metavar": "N", "help": "for the next N requests (default: until cleared)"},
)

_COMMANDS: dict[str, tuple[str, list[tuple[str, dict[str, Any]]]]] = {
    "slow": (
        "carry requests out later",
        [
            ("milliseconds", {"type": int, "metavar": "MILLISECONDS", "help": "how much later; 0 ends it"}),
            _VERBS,
        ],
    ),
    "silent": ("accept requests, answer nothing", [_ON]),
    "cut": (
        "let nothing pass between these engines and the hosts",
        [("--engines", {"nargs": "*", "default": [], "metavar": "ENGINE", "help": "which (default: none)"})],
    ),
    "error": (
        "refuse requests with an error",
        [
            ("code", {"type": int, "metavar": "CODE", "help": "99: recovering, 1100: too busy"}),
            _COUNT,
            _VERBS,
        ],
    ),
    "drop_replies": ("carry requests out, lose the answers", [_COUNT, _VERBS]),
    "refuse_stale": ("refuse requests of an older epoch than one seen", [_ON]),
    "refuse": ("stop the agent: reset and refuse connections; VMs run on", []),
    "crash": ("the machine dies, with its VMs; its power stays on", []),
    "restart_agent": ("start the agent again, as over SSH; VMs run on", []),
    "wedge": ("have restart_agent change nothing", [_ON]),
    "power": (
        "switch the machine, as its fence agent does",
        [("action", {"choices": ["on", "off", "reboot", "status"], "help": "what to do"})],
    ),
    "restore": ("switch on and run again, without faults", []),
    "clear": ("forget slow, silent, cut, wedge, error and drop_replies", []),
    "event": (
        "send an event to all who subscribed",
        [
            ("kind", {"metavar": "KIND", "help": "for example '|net|host_conn|'"}),
            (
                "--params",
                {"type": orjson.loads, "default": {}, "metavar": "JSON", "help": "what it says (a map)"},
            ),
        ],
    ),
    "add_vms": (
        "put running VMs on each host",
        [
            ("--count", {"type": int, "default": 1, "metavar": "N", "help": "how many (default: 1)"}),
            ("--status", {"default": "Up", "metavar": "STATUS", "help": "the agent's word (default: Up)"}),
        ],
    ),
    "remove_vms": (
        "destroy VMs",
        [("--ids", {"nargs": "+", "metavar": "ID", "help": "which (default: all)"})],
    ),
    "pace": (
        "have migrations that begin now take so long",
        [("migrate_seconds", {"type": float, "metavar": "SECONDS", "help": "how long"})],
    ),
    "end_vms": (
        "have guests shut down by themselves",
        [("--ids", {"nargs": "+", "metavar": "ID", "help": "which (default: all)"})],
    ),
    "vms": ("show the status of each VM", []),
    "counters": ("show what each host has seen", []),
}


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    options = vars(_parser().parse_args(arguments))
    control, do, ports = options.pop("control"), options.pop("command"), options.pop("hosts")
    try:
        return asyncio.run(_run(control, do, ports, options))
    except (Refused, LinkClosed) as error:
        print(f"engine-simulator ctl: {error}", file=sys.stderr)
    except OSError as error:
        print(f"engine-simulator ctl: no fleet answers at {control}: {error.strerror}", file=sys.stderr)
    return 1


async def _run(control: Path, do: str, ports: list[int] | None, details: dict[str, Any]) -> int:
    async with open_simulator(control) as simulator:
        for port, said in (await simulator.command(do, ports, **details)).items():
            print(orjson.dumps({"host": port, do: said} if said is not None else {"host": port}).decode())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="engine-simulator ctl", description="Command a running simulated fleet."
    )
    parser.add_argument(
        "--control", type=Path, required=True, metavar="PATH", help="the fleet's control socket"
    )
    parser.add_argument(
        "--hosts",
        type=_ports,
        metavar="PORTS",
        help="which hosts, by port: 20000,20004-20007 (default: all)",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (summary, options) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        for option, settings in options:
            command.add_argument(option, **settings)
    return parser


def _ports(text: str) -> list[int]:
    ports: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            ports.extend(range(int(first), int(last if dash else first) + 1))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r} is neither a port nor a range of ports") from None
    return ports
