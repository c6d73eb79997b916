"""`engine hosts activate|maintenance|approve|refresh|fence|...`: what hosts are told."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from engine.cli.entities import ActOnEntity
from engine.cli.hosts import HOSTS


class HostsActivate(ActOnEntity):
    """Take a host into use."""

    noun = HOSTS
    action = "activate"


class HostsMaintenance(ActOnEntity):
    """Move every virtual machine away from a host and leave it alone."""

    noun = HOSTS
    action = "maintenance"


class HostsApprove(ActOnEntity):
    """Approve a host that asked to be taken in."""

    noun = HOSTS
    action = "approve"


class HostsRefresh(ActOnEntity):
    """Ask a host again what it can do."""

    noun = HOSTS
    action = "refresh"


class HostsFence(ActOnEntity):
    """Switch a host on or off through another one, or ask whether it is."""

    noun = HOSTS
    action = "fence"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("power", choices=("on", "off", "reboot", "status"), help="what to do")

    def body(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        return {"power": parsed_args.power}


class HostsRestartAgent(ActOnEntity):
    """Have the agent of a host that does not answer started again, by SSH; its machines run on."""

    noun = HOSTS
    action = "restart-agent"


class HostsConfirmRebooted(ActOnEntity):
    """Vouch that a host that does not answer has been restarted: what it ran is down."""

    noun = HOSTS
    action = "confirm-rebooted"
