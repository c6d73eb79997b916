"""`engine vms ...`: virtual machines. A VM is named by its name or its id."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from cliff.command import Command
from cliff.lister import Lister
from cliff.show import ShowOne

from engine.cli.actions import act, add_wait_option, path_to, shown
from engine.cli.client import add_api_options, open_api
from engine.cli.columns import one, table

COLUMNS = ("name", "status", "host_id", "memory_bytes", "cpus", "cluster_id", "status_since", "id")
NARROW = ("name", "status", "host_id", "memory_bytes", "cpus")
TIMES = ("status_since", "reported_at", "created_at", "ended_at")
_MEBIBYTE = 1024 * 1024


class VmsList(Lister):
    """List the virtual machines."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        parser.add_argument("--status", metavar="STATUS", action="append", help="only those in this status")
        parser.add_argument("--name", metavar="NAME", help="only those whose name begins so: 'web-*'")
        parser.add_argument("--host", metavar="HOST", help="only those on this host")
        parser.add_argument("--cluster", metavar="CLUSTER", help="only those of this host cluster")
        parser.add_argument("--order-by", metavar="KEY", help="name, status, created_at, memory_bytes, cpus")
        parser.add_argument("--limit", type=int, metavar="N", help="at most this many (default: all)")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        params = {name: getattr(parsed_args, name) for name in ("status", "name", "host", "cluster")}
        params["sort"] = parsed_args.order_by
        with open_api(parsed_args) as api:
            vms = list(api.pages("/v1/vms", "vms", limit=parsed_args.limit, params=params))
        narrow = parsed_args.formatter == "table" and not parsed_args.columns
        return table(vms, NARROW if narrow else COLUMNS, output=parsed_args.formatter, times=TIMES)


class VmsShow(ShowOne):
    """Show one virtual machine."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("vm", help="name or id of the VM")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            vm = api.get(path_to("vms", parsed_args.vm))
        return one(vm, output=parsed_args.formatter, times=TIMES)


class VmsAdd(ShowOne):
    """Add a virtual machine; it is down until `engine vms run`."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", help="name of the VM, unique")
        parser.add_argument("--memory", type=int, default=1024, metavar="MIB", help="MiB (default: 1024)")
        parser.add_argument("--cpus", type=int, default=1, metavar="N", help="processors (default: 1)")
        parser.add_argument("--cluster", metavar="CLUSTER", help="its host cluster (default: default)")
        parser.add_argument("--pin", metavar="HOST", help="the only host that it may run on")
        parser.add_argument(
            "--highly-available",
            action="store_true",
            default=None,
            help="run it again, elsewhere, where it ended though nobody stopped it",
        )
        parser.add_argument(
            "--priority",
            type=int,
            metavar="N",
            help="0 to 100; the highest is run again first (default: 50)",
        )
        parser.add_argument("--affinity-group", metavar="GROUP", help="VMs that belong together, or apart")
        parser.add_argument("--affinity", choices=("together", "apart"), help="what its group means")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        asked = {
            "name": parsed_args.name,
            "memory_bytes": parsed_args.memory * _MEBIBYTE,
            "cpus": parsed_args.cpus,
            "cluster": parsed_args.cluster,
            "pinned_host": parsed_args.pin,
            "highly_available": parsed_args.highly_available,
            "priority": parsed_args.priority,
            "affinity_group": parsed_args.affinity_group,
            "affinity": parsed_args.affinity,
        }
        with open_api(parsed_args) as api:
            vm = api.post("/v1/vms", {name: value for name, value in asked.items() if value is not None})
        return one(vm, output=parsed_args.formatter, times=TIMES)


class VmsRemove(Command):
    """Remove virtual machines that are down."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("vm", nargs="+", help="name or id of the VM")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        with open_api(parsed_args) as api:
            for vm in [api.get(path_to("vms", called)) for called in parsed_args.vm]:
                api.delete(path_to("vms", vm["id"]))
                self.app.stdout.write(f"removed {vm['name']} ({vm['id']})\n")


class _VmAction(ShowOne):
    action: ClassVar[str]
    takes_host: ClassVar[bool] = False

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("vm", help="name or id of the VM")
        if self.takes_host:
            parser.add_argument("--host", metavar="HOST", help="where to (default: the best host)")
        add_wait_option(parser)
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        host = getattr(parsed_args, "host", None)
        path = path_to("vms", parsed_args.vm, self.action)
        with open_api(parsed_args) as api:
            command = act(api, path, {} if host is None else {"host": host}, wait=parsed_args.wait)
        return one(shown(command), output=parsed_args.formatter, times=TIMES)


class VmsRun(_VmAction):
    """Run a virtual machine on the best host, or on a chosen one."""

    action = "run"
    takes_host = True


class VmsStop(_VmAction):
    """Switch a virtual machine off at once."""

    action = "stop"


class VmsShutdown(_VmAction):
    """Ask the guest system to shut down."""

    action = "shutdown"


class VmsReboot(_VmAction):
    """Ask the guest system to restart."""

    action = "reboot"


class VmsPause(_VmAction):
    """Halt a virtual machine where it is."""

    action = "pause"


class VmsResume(_VmAction):
    """Let a halted virtual machine go on."""

    action = "resume"


class VmsMigrate(_VmAction):
    """Move a running virtual machine to the best other host, or to a chosen one."""

    action = "migrate"
    takes_host = True


class VmsCancelMigration(_VmAction):
    """Have a virtual machine that is being moved stay where it is."""

    action = "cancel-migration"
