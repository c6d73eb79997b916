"""The program `engine`: its options, its exit codes, and how errors reach the user.

Commands are entry points of the group `engine.cli`, one module a noun. Options of the program come
before the command's name; whatever follows belongs to the command, untouched (`engine zkcli get -s /`).
An error is one sentence on stderr, and its class decides the exit code.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from cliff.app import App
from cliff.command import Command
from cliff.commandmanager import CommandManager
from cliff.help import HelpCommand, HelpExit

from engine.cli.overview import overview
from engine.errors import Conflict, EngineError, NotFound

DESCRIPTION = "Manage the engines that share a fleet of virtualisation hosts."

GUIDE = """\
where the API is:
  --api-url after the command, else ENGINE_API_URL, else the `endpoint` file that `engine up` leaves in
  its state directory (--state-dir, $XDG_STATE_HOME/engine-ha, ~/.local/state/engine-ha), else
  http://127.0.0.1:8420

exit codes:
  0 done   1 failed, or the API does not answer   2 wrong usage   4 not found   5 conflict
  130 interrupted

`engine help <command>` says more about a command.
"""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 4
EXIT_CONFLICT = 5


def exit_code(error: BaseException) -> int:
    """What the shell is told about an error."""
    if isinstance(error, NotFound):
        return EXIT_NOT_FOUND
    if isinstance(error, Conflict):
        return EXIT_CONFLICT
    return EXIT_FAILED


class CommandLine(argparse.ArgumentParser):
    """Takes the options before the command's name and leaves everything after it alone."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)} (options of a command follow its name)")
        command: list[str] = options.command
        # Without a command cliff would open a shell of its own; people expect the help.
        options.deferred_help = options.deferred_help or not command
        return options, command


class Commands(CommandManager):
    """The commands by name, each imported when it is called; cliff's own imports them all, always."""

    def load_commands(self, namespace: str) -> None:
        self.group_list.append(namespace)
        for entry in metadata.entry_points(group=namespace):
            self.commands[entry.name.replace("_", " ")] = entry


class Help(HelpCommand):
    """Explain a command, or list them all."""

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        if not parsed_args.cmd:
            self.app.options.deferred_help = True
            self.app.print_help_if_requested()
        try:
            return super().take_action(parsed_args)
        except ValueError:
            self.app.LOG.error("there is no command %r; see `engine --help`", " ".join(parsed_args.cmd))
            return EXIT_USAGE


class EngineApp(App):
    """cliff's application with our options, messages and exit codes."""

    NAME = "engine"
    LOG = logging.getLogger("engine.cli")

    def __init__(self) -> None:
        super().__init__(
            description=DESCRIPTION,
            version=metadata.version("engine-ha"),
            command_manager=Commands("engine.cli"),
            deferred_help=True,
        )
        self.command_manager.add_command("help", Help)
        self._failure: BaseException | None = None

    def build_option_parser(
        self,
        description: str | None,
        version: str | None,
        argparse_kwargs: dict[str, Any] | None = None,
    ) -> argparse.ArgumentParser:
        parser = CommandLine(
            prog=self.NAME,
            usage="%(prog)s [options] <command> [options of the command]",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
            allow_abbrev=False,
        )
        add = parser.add_argument
        add("-h", "--help", dest="deferred_help", action="store_true", help="show this help and exit")
        add("--version", action="version", version=f"%(prog)s {version}")
        add(
            "-v",
            "--verbose",
            dest="verbose_level",
            action="count",
            default=0,
            help="log more; may be repeated",
        )
        add("-q", "--quiet", dest="verbose_level", action="store_const", const=-1, help="log errors only")
        add("--log-file", metavar="FILE", help="log to a file as well")
        add("--debug", action="store_true", help="show the traceback of an error")
        add("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
        return parser

    def configure_logging(self) -> None:
        """The console shows warnings and errors; -v and -vv add to them."""
        root = logging.getLogger()
        root.setLevel(logging.DEBUG if self.options.log_file else logging.NOTSET)
        console = logging.StreamHandler(self.stderr)
        levels = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}
        console.setLevel(levels.get(self.options.verbose_level, logging.DEBUG))
        console.setFormatter(logging.Formatter(f"{self.NAME}: %(message)s"))
        root.addHandler(console)
        if self.options.log_file:
            file = logging.FileHandler(self.options.log_file)
            file.setFormatter(logging.Formatter(self.LOG_FILE_MESSAGE_FORMAT))
            root.addHandler(file)

    def print_help_if_requested(self) -> None:
        if self.options.deferred_help:
            self.parser.epilog = f"{overview(self.command_manager)}\n\n{GUIDE}"
            self.parser.print_help(self.stdout)
            raise HelpExit

    def run_subcommand(self, argv: list[str]) -> int:
        self._failure = None
        result = super().run_subcommand(argv)
        return result if self._failure is None else exit_code(self._failure)

    def clean_up(self, cmd: Command, result: int, err: BaseException | None) -> None:
        self._failure = err
        if isinstance(err, Exception) and not isinstance(err, EngineError) and not self.options.debug:
            self.LOG.error("this should not happen; `engine --debug ...` shows where it did")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; wrong usage ends the process with 2."""
    result = EngineApp().run(list(sys.argv[1:] if argv is None else argv))
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # `engine events list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return result


if __name__ == "__main__":
    sys.exit(main())
