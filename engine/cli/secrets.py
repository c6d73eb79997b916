"""`engine secrets new-key`: the keys under which passwords are kept. A file of this machine: not by API."""

from __future__ import annotations

import argparse

from cliff.command import Command


class SecretsNewKey(Command):
    """Make a key file, or put a new key in front of those in it.

    The first key encrypts, all decrypt. Give every engine and API process the same file
    ([database] secrets_key_file) and restart them; before a key is dropped from the file, set anew what
    was encrypted with it.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("file", metavar="FILE", help="the key file")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        from engine.errors import InvalidInput
        from engine.secrets import Secrets

        try:
            Secrets.make_key(parsed_args.file)
        except OSError as error:
            raise InvalidInput(f"{parsed_args.file} cannot be written: {error.strerror}") from error
        Secrets.from_file(parsed_args.file)
        self.app.stdout.write(f"a new key is the first one of {parsed_args.file}\n")
