"""`engine hosts activate|maintenance|approve|refresh|fence|confirm-rebooted`: what hosts are told."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from cliff.show import ShowOne

from engine.cli.actions import act, add_wait_option, path_to, shown
from engine.cli.client import add_api_options, open_api
from engine.cli.columns import one


class _HostAction(ShowOne):
    action: ClassVar[str]

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("host", help="name or id of the host")
        add_wait_option(parser)
        add_api_options(parser)
        return parser

    def body(self, parsed_args: argparse.Namespace) -> dict[str, Any]:
        return {}

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        path = path_to("hosts", parsed_args.host, self.action)
        with open_api(parsed_args) as api:
            command = act(api, path, self.body(parsed_args), wait=parsed_args.wait)
        return one(shown(command), output=parsed_args.formatter, times=("created_at", "ended_at"))


class HostsActivate(_HostAction):
    """Take a host into use."""

    action = "activate"


class HostsMaintenance(_HostAction):
    """Move every virtual machine away from a host and leave it alone."""

    action = "maintenance"


class HostsApprove(_HostAction):
    """Approve a host that asked to be taken in."""

    action = "approve"


class HostsRefresh(_HostAction):
    """Ask a host again what it can do."""

    action = "refresh"


class HostsFence(_HostAction):
    """Switch a host on or off through another one, or ask whether it is."""

    action = "fence"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("power", choices=("on", "off", "reboot", "status"), help="what to do")
        return parser

    def body(self, parsed_args: argparse.Namespace) -> dict[str, Any]:
        return {"power": parsed_args.power}


class HostsConfirmRebooted(_HostAction):
    """Vouch that a host that does not answer has been restarted: what it ran is down."""

    action = "confirm-rebooted"
