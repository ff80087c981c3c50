"""`hartonomous engine`: the embedded vector engine, a process that speaks Qdrant's REST."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from hartonomous import log

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(f"{value} is negative")
    return value


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("engine", help="serve the embedded vector engine", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the collections")
    parser.add_argument(
        "--listen",
        default="127.0.0.1:6333",
        metavar="ADDRESS",
        help="HOST:PORT (port 0: any free one) or unix:PATH; default %(default)s",
    )
    parser.add_argument(
        "--reserve-mb",
        type=_not_negative,
        default=96,
        metavar="N",
        help="refuse writes while less than this is free on the data volume; default %(default)s",
    )
    parser.add_argument("--log-level", default="INFO", choices=_LEVELS, help="default %(default)s")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT (0); 1 with a sentence when the engine cannot start."""
    from hartonomous.engine import main

    log.configure(args.log_level)
    try:
        main.run(args.data, args.listen, reserve=args.reserve_mb * 2**20)
    except main.StartError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
