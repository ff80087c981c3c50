"""`hartonomous check CONFIG`: says what is wrong with a configuration file, and where."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from hartonomous.clients.sparse import Bm25Encoder
from hartonomous.clients.tokenizing import load_tokenizer
from hartonomous.errors import ConfigError
from hartonomous.settings import read


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("check", help="check a configuration file")
    parser.add_argument("config", type=Path, help="configuration file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what is wrong, a line each, and return 2; or say that all is well."""
    try:
        config = read(args.config).config
        Bm25Encoder.for_language(config.rag.retrieval.language)
        if config.backends.embedding.tokenizer is not None:
            load_tokenizer(config.backends.embedding.tokenizer)
    except ConfigError as error:
        print(error.message, file=sys.stderr)
        return 2
    print(f"{args.config}: ok")
    return 0
