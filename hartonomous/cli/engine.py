"""`hartonomous engine`: the embedded vector engine, a process that speaks Qdrant's REST, and one that keeps it alive.

What is needed by one of the two alone is imported where it is used: the keeper has no heavy package.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from hartonomous.cli import early, interpreter

_DESCRIPTION = "The embedded vector engine: it speaks Qdrant's REST, and is started again when it dies."
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(f"{value} is negative")
    return value


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("engine", help="serve the embedded vector engine", description=_DESCRIPTION)
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
    parser.add_argument(
        "--api-key", metavar="file:PATH", help="a file with the key that requests must show; default: none is asked for"
    )
    parser.add_argument("--no-restart", action="store_true", help="for what starts a dead engine again by itself")
    parser.add_argument("--log-level", default="INFO", choices=_LEVELS, help="default %(default)s")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT (0); 1 with a sentence when the engine cannot start."""
    return _serve(args) if args.no_restart else _supervise(args)


def _supervise(args: argparse.Namespace) -> int:
    from hartonomous.engine.supervisor import supervise

    def command(before: str | None) -> list[str]:
        listen = _same_port(args.listen, before)
        options = {"data": args.data, "listen": listen, "reserve-mb": args.reserve_mb, "log-level": args.log_level}
        if args.api_key is not None:
            options["api-key"] = args.api_key
        settings = (f"--{name}={value}" for name, value in options.items())
        return [sys.executable, "-m", "hartonomous", "engine", "--no-restart", *settings]

    def tell(code: int, wait_s: float) -> None:
        from hartonomous import log
        from hartonomous.supervision import ending

        log.configure(args.log_level)
        log.logger.bind(ended=ending(code), restart_after_s=round(wait_s, 3)).error("vector engine died")

    return supervise(command, tell)


def _same_port(listen: str, before: str | None) -> str:
    """Return where to listen; a port that the kernel chose for the engine before is kept: its address ends with it."""
    if before is None or listen.startswith("unix:") or not listen.endswith(":0"):
        return listen
    return listen.removesuffix("0") + before.rpartition(":")[2]


def _serve(args: argparse.Namespace) -> int:
    interpreter.share()
    with early.stopping():
        from hartonomous import log
        from hartonomous.engine import main

        log.configure(args.log_level)
        try:
            main.run(args.data, args.listen, reserve=args.reserve_mb * 2**20, key=args.api_key)
        except main.StartError as error:
            print(error, file=sys.stderr)
            return 1
        return 0
