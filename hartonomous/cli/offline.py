"""What the commands share that work on the backends themselves, without a server: their frame and their exit status."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hartonomous import log
from hartonomous.cli.common import INTERRUPTED, complain, whole
from hartonomous.cli.serve import DEFAULT_CONFIG
from hartonomous.config import COLLECTION_PATTERN, Chunking, Config
from hartonomous.configfile import load
from hartonomous.core.access import EVERYTHING
from hartonomous.core.call import Call
from hartonomous.core.deadline import Deadline
from hartonomous.errors import ConfigError, HartonomousError

if TYPE_CHECKING:
    from hartonomous.wiring import Storage

__all__ = ["Command", "add_chunking", "add_config", "chunking_of", "collection_name", "complain", "run"]

# These commands take as long as they take; each call has its backend's own limit.
_ENDLESS_S = 10 * 365 * 86_400.0

Command = Callable[["Storage", Config, Call], Awaitable[int]]


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the configuration file."""
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="configuration file (default: %(default)s)")


def add_chunking(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how documents are cut."""
    parser.add_argument("--max-tokens", type=whole, metavar="N", help="of a chunk; default: the configuration's")
    parser.add_argument("--overlap-tokens", type=whole, metavar="N", help="of neighbours; default: the configuration's")


def chunking_of(args: argparse.Namespace, config: Config) -> Chunking:
    """Return how documents are cut; raise ConfigError when the numbers do not go together."""
    default = config.rag.chunking
    max_tokens = default.max_tokens if args.max_tokens is None else args.max_tokens
    # The configured overlap may be too much for smaller chunks.
    overlap = min(default.overlap_tokens, max_tokens // 2) if args.overlap_tokens is None else args.overlap_tokens
    try:
        return Chunking(max_tokens=max_tokens, overlap_tokens=overlap)
    except ValueError:
        low, high = 16, 8_192
        raise ConfigError(
            f"chunks of {max_tokens} tokens that share {overlap}: expected {low} to {high}, and at most half of it"
        ) from None


def collection_name(text: str) -> str:
    """Return the name of a collection, as an argument."""
    if not re.fullmatch(COLLECTION_PATTERN, text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a collection")
    return text


def run(name: str, args: argparse.Namespace, command: Command) -> int:
    """Run a command on the backends of the configuration; return its exit status, 1 when it failed with a sentence."""
    try:
        config = load(args.config, os.environ)
        log.configure("WARNING")
        return asyncio.run(_connected(name, config, command))
    except ConfigError as error:
        complain(error.message)
        return 2
    except HartonomousError as error:
        complain(f"hartonomous {name}: {error.message}")
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


async def _connected(name: str, config: Config, command: Command) -> int:
    from contextlib import AsyncExitStack

    from hartonomous import clienttls
    from hartonomous.metrics import Metrics
    from hartonomous.wiring import open_storage

    request_id = f"{name}-{os.urandom(8).hex()}"
    call = Call(request_id, Deadline(_ENDLESS_S), {"X-Request-ID": request_id}, EVERYTHING)
    async with AsyncExitStack() as stack:
        storage = open_storage(config, Metrics(), stack, trusts=clienttls.read(config))
        return await command(storage, config, call)
