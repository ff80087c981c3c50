"""`hartonomous check CONFIG`: says what is wrong with a configuration file, and where."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from hartonomous.clients.sparse import Bm25Encoder
from hartonomous.clients.tokenizing import load_tokenizer
from hartonomous.configfile import load, load_template
from hartonomous.errors import ConfigError


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("check", help="check a configuration file")
    parser.add_argument("config", type=Path, help="configuration file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what is wrong, a line each, and return 2; or say that all is well."""
    try:
        config = load(args.config, os.environ)
        Bm25Encoder.for_language(config.rag.retrieval.language)
        if config.backends.embedding.tokenizer is not None:
            load_tokenizer(config.backends.embedding.tokenizer)
        load_template(config.rag.generation.template)
    except ConfigError as error:
        print(error.message, file=sys.stderr)
        return 2
    print(f"{args.config}: ok")
    return 0
