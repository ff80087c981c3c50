"""`hartonomous serve`: the API."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from hartonomous import log, systemd
from hartonomous.configfile import load
from hartonomous.errors import ConfigError

DEFAULT_CONFIG = Path("/etc/hartonomous/hartonomous.yaml")


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("serve", help="serve the API")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="configuration file (default: %(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes; 2 when the configuration is wrong."""
    # Imported here, so that the other subcommands start without the server's packages.
    from hartonomous import server

    try:
        given = systemd.take(os.environ)
        config = load(args.config, os.environ)
        log.configure(config.log.level, kept_records=config.log.kept_records)
        asyncio.run(server.run(config, args.config, given))
    except ConfigError as error:
        print(error.message, file=sys.stderr)
        return 2
    return 0
