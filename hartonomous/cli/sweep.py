"""`hartonomous sweep`: what killed ingests left behind is removed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from hartonomous.cli import offline

if TYPE_CHECKING:
    from hartonomous.config import Config
    from hartonomous.core.call import Call
    from hartonomous.wiring import Storage

_DESCRIPTION = """\
Remove chunks of ingests that never became visible, and collections of reindexes that were given up, when they are older
than rag.ingest.sweep_after_s of the configuration. Nobody has ever seen them, and an ingest or reindex that is run
again uses or removes its own."""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("sweep", help="remove what killed ingests left behind", description=_DESCRIPTION)
    parser.add_argument("--collection", type=offline.collection_name, metavar="NAME", help="default: all collections")
    offline.add_config(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Sweep, and print what was removed of each collection."""

    async def command(storage: Storage, config: Config, call: Call) -> int:
        from hartonomous.pipelines.sweep import Sweeper

        sweeper = Sweeper(storage.vectors, storage.schema)
        swept = await sweeper.sweep(args.collection, config.rag.ingest.sweep_after_s, call)
        for name, removed in swept.items():
            given_up = f", {removed.reindexes} reindexes that were given up" if removed.reindexes else ""
            print(f"{name}: {removed.chunks} chunks{given_up}")
        return 0

    return offline.run("sweep", args, command)
