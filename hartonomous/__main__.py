"""The command line: argv to a subcommand. Each subcommand is a file of `hartonomous.cli`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hartonomous import __version__
from hartonomous.cli import check, engine, export, import_, ingest, reindex, serve, sweep, trial
from hartonomous.cli import eval as eval_


def main(argv: Sequence[str] | None = None) -> int:
    """Run the subcommand that `argv` names; return its exit status."""
    parser = argparse.ArgumentParser(prog="hartonomous", description="One dependable RAG API for llama.cpp and Qdrant.")
    parser.add_argument("--version", action="version", version=f"hartonomous {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (serve, engine, ingest, export, import_, reindex, sweep, eval_, trial, check):
        command.add_parser(subparsers)
    arguments = parser.parse_args(argv)
    status: int = arguments.run(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
