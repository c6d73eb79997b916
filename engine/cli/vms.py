"""`engine vms ...`: virtual machines. A VM is named by its name or its id."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from engine.cli.entities import (
    ActOnEntity,
    AddEntity,
    ListEntities,
    Noun,
    RemoveEntities,
    ShowEntity,
    UpdateEntity,
    or_empty,
)

COLUMNS = ("name", "status", "host_id", "memory_bytes", "cpus", "cluster_id", "status_since", "id")
VMS = Noun(
    plural="vms",
    word="vm",
    called="VM",
    columns=COLUMNS,
    narrow=COLUMNS[:5],
    times=("status_since", "reported_at", "created_at", "restart_at"),
    sorted_by=("name", "status", "created_at", "memory_bytes", "cpus"),
)
_MEBIBYTE = 1024 * 1024


class VmsList(ListEntities):
    """List the virtual machines."""

    noun = VMS
    filters = ("status", "name", "host", "cluster")

    def add_filters(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--status", metavar="STATUS", action="append", help="only those in this status; may be repeated")
        add("--name", metavar="NAME", help="only those whose name begins so, or is like this: 'web-*'")
        add("--host", metavar="HOST", help="only those on this host")
        add("--cluster", metavar="CLUSTER", help="only those of this host cluster")


class VmsShow(ShowEntity):
    """Show one virtual machine."""

    noun = VMS


def add_fields(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--memory", type=int, metavar="MIB", help="MiB (a new one: 1024)")
    add("--cpus", type=int, metavar="N", help="processors (a new one: 1)")
    add("--description", metavar="TEXT", help="what it is for")
    add("--cluster", metavar="CLUSTER", help="its host cluster (a new one: default)")
    add("--pin", metavar="HOST", help="the only host that it may run on; '' for none")
    add(
        "--highly-available",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="run it again, elsewhere, where it ended though nobody stopped it",
    )
    add("--priority", type=int, metavar="N", help="0 to 100; the highest is run again first (a new one: 50)")
    add("--affinity-group", metavar="GROUP", help="VMs that belong together, or apart; '' for none")
    add("--affinity", choices=("together", "apart", ""), help="what its group means; '' for nothing")


def fields(parsed_args: argparse.Namespace) -> dict[str, Any]:
    memory = parsed_args.memory
    same = ("cpus", "description", "cluster", "highly_available", "priority")
    return {
        "memory_bytes": None if memory is None else memory * _MEBIBYTE,
        **{name: getattr(parsed_args, name) for name in same},
        "pinned_host": or_empty(parsed_args.pin),
        "affinity_group": or_empty(parsed_args.affinity_group),
        "affinity": or_empty(parsed_args.affinity),
    }


class VmsAdd(AddEntity):
    """Add a virtual machine; it is down until `engine vms run`."""

    noun = VMS

    def add_fields(self, parser: argparse.ArgumentParser) -> None:
        add_fields(parser)
        parser.set_defaults(memory=1024)

    def asked(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        return fields(parsed_args)


class VmsUpdate(UpdateEntity):
    """Change a virtual machine; what is not named stays as it is. It is resized while it is down."""

    noun = VMS

    def add_fields(self, parser: argparse.ArgumentParser) -> None:
        add_fields(parser)

    def changes(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        return fields(parsed_args)


class VmsRemove(RemoveEntities):
    """Remove virtual machines that are down."""

    noun = VMS


class _ToHost(ActOnEntity):
    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--host", metavar="HOST", help="where to (default: the best host)")

    def body(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        return {"host": parsed_args.host}


class VmsRun(_ToHost):
    """Run a virtual machine on the best host, or on a chosen one."""

    noun = VMS
    action = "run"


class VmsStop(ActOnEntity):
    """Switch a virtual machine off at once."""

    noun = VMS
    action = "stop"


class VmsShutdown(ActOnEntity):
    """Ask the guest system to shut down."""

    noun = VMS
    action = "shutdown"


class VmsReboot(ActOnEntity):
    """Ask the guest system to restart."""

    noun = VMS
    action = "reboot"


class VmsPause(ActOnEntity):
    """Halt a virtual machine where it is."""

    noun = VMS
    action = "pause"


class VmsResume(ActOnEntity):
    """Let a halted virtual machine go on."""

    noun = VMS
    action = "resume"


class VmsMigrate(_ToHost):
    """Move a running virtual machine to the best other host, or to a chosen one."""

    noun = VMS
    action = "migrate"


class VmsCancelMigration(ActOnEntity):
    """Have a virtual machine that is being moved stay where it is."""

    noun = VMS
    action = "cancel-migration"
