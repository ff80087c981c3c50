"""The command line: argv to a subcommand. Each subcommand is a file of `hartonomous.cli`, loaded when it is named."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from hartonomous import __version__

# By the names of their files, in the order in which they are shown.
_COMMANDS = (
    "serve",
    "engine",
    "ingest",
    "query",
    "export",
    "import_",
    "reindex",
    "sweep",
    "eval",
    "audit",
    "trial",
    "check",
    "keys",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the subcommand that `argv` names; return its exit status."""
    parser = argparse.ArgumentParser(prog="hartonomous", description="One dependable RAG API for llama.cpp and Qdrant.")
    parser.add_argument("--version", action="version", version=f"hartonomous {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    words = sys.argv[1:] if argv is None else argv
    named = [command for command in _COMMANDS if words and command.strip("_") == words[0]]
    for command in named or _COMMANDS:
        importlib.import_module(f"hartonomous.cli.{command}").add_parser(subparsers)
    arguments = parser.parse_args(words)
    status: int = arguments.run(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
