"""`engine db upgrade`: bring the database to the schema of this code. Not by API: none runs yet."""

from __future__ import annotations

import argparse

from cliff.command import Command


class DbUpgrade(Command):
    """Create the database or bring it to the schema of this version. Run it before the engines."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        where = parser.add_mutually_exclusive_group()
        where.add_argument(
            "--config-file", metavar="FILE", help="take the database of this configuration file"
        )
        where.add_argument(
            "--url", metavar="URL", help="the database, for example sqlite+aiosqlite:////path/db"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        import asyncio

        from engine.db import migrate

        url = parsed_args.url or configured_url(parsed_args.config_file)
        before = asyncio.run(migrate.current(url))
        after = asyncio.run(migrate.upgrade(url))
        self.app.stdout.write(
            f"{before or 'no schema'} -> {after}\n" if before != after else f"already at {after}\n"
        )


def configured_url(config_file: str | None) -> str:
    """`[database] url` of the file (default: /etc/engine/engine.conf)."""
    from oslo_config import cfg

    from engine.db import options
    from engine.errors import InvalidInput

    conf = cfg.ConfigOpts()
    conf.register_opts(options.OPTS, options.GROUP)
    try:
        conf([], project="engine", default_config_files=[config_file or "/etc/engine/engine.conf"])
    except cfg.ConfigFilesNotFoundError as error:
        raise InvalidInput(f"{error}; name a file with --config-file, or the database with --url") from error
    except cfg.Error as error:
        raise InvalidInput(str(error)) from error
    url: str = conf[options.GROUP].url
    return url
