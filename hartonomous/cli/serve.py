"""`hartonomous serve`: the API. Heavy packages are imported when signals are taken care of, and only to serve."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from pathlib import Path
from typing import Any

from hartonomous.cli import early, interpreter

DEFAULT_CONFIG = Path("/etc/hartonomous/hartonomous.yaml")


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("serve", help="serve the API")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="configuration file (default: %(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes; 2 when the configuration is wrong."""
    interpreter.share()
    with early.waiting(), early.stopping():
        return _serve(args.config)


def _serve(path: Path) -> int:
    gc.disable()  # until `memory.settle`: looking for what is gone is 30 ms of a start, in which nothing goes
    import asyncio

    from hartonomous import eventloop, log, server, systemd
    from hartonomous.configfile import load
    from hartonomous.errors import ConfigError

    try:
        given = systemd.take(os.environ)
        config = load(path, os.environ)
        log.configure(config.log.level, kept_records=config.log.kept_records)
        with asyncio.Runner(loop_factory=eventloop.factory(config.server)) as runner:
            runner.run(server.run(config, path, given))
    except ConfigError as error:
        print(error.message, file=sys.stderr)
        return 2
    return 0
