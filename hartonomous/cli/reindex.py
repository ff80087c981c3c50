"""`hartonomous reindex COLLECTION`: the stored documents embedded anew, while servers go on with the old collection."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hartonomous.cli import offline
from hartonomous.errors import NotFoundError

if TYPE_CHECKING:
    from hartonomous.config import Config
    from hartonomous.core.call import Call
    from hartonomous.pipelines.documents import DocumentResult
    from hartonomous.pipelines.reindex import Plan, Reindexed
    from hartonomous.sending.tally import Tally
    from hartonomous.wiring import Storage

_DESCRIPTION = """\
Embed the stored documents of a collection again, with the model and the settings of the configuration, and let the
collection be the new one from then on. Servers with the old model serve the old one until then. What was interrupted is
simply run again."""
_EPILOG = "Exit status: 0 done, 1 not done, 2 wrong usage or configuration, 130 interrupted."


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("reindex", help="embed a collection anew", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("collection", metavar="COLLECTION", type=offline.collection_name)
    offline.add_chunking(parser)
    parser.add_argument("--language", metavar="NAME", help="of words and stems; default: the collection's own")
    parser.add_argument("--keep", action="store_true", help="keep the old collection, under its physical name")
    parser.add_argument("--force", action="store_true", help="also when nothing has changed")
    offline.add_config(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Reindex; 1 with sentences when not every document could be embedded."""

    async def command(storage: Storage, config: Config, call: Call) -> int:
        return await _reindex(args, storage, config, call)

    return offline.run("reindex", args, command)


async def _reindex(args: argparse.Namespace, storage: Storage, config: Config, call: Call) -> int:
    from hartonomous.clients.moving import Mover
    from hartonomous.pipelines.copying import Copier
    from hartonomous.pipelines.reindex import Reindexer
    from hartonomous.sending.progress import make_display, showing
    from hartonomous.sending.tally import Tally

    plan = _plan(args, config)
    mover = Mover(storage.pools["qdrant"])
    reindexer = Reindexer(storage.embedding, storage.schema, mover, Copier(storage.vectors, mover, storage.ingestor))
    tally = Tally(total=None)
    with suppress(NotFoundError):  # told below, unless its reindex was interrupted in just that moment
        tally.total, _ = await storage.vectors.counts(plan.collection, call)
    try:
        async with showing(make_display(progress=sys.stderr.isatty(), quiet=False), tally):
            reindexed = await reindexer.run(plan, call, lambda result: _count(tally, result))
    finally:
        for failure in tally.failures:
            offline.complain(str(failure))
    print(await _told(plan, reindexed, tally, storage, call), flush=True)
    return 0


def _plan(args: argparse.Namespace, config: Config) -> Plan:
    """Return what is wanted; raise ConfigError for a language that is not known, or numbers that do not fit."""
    from hartonomous.clients.sparse import Bm25Encoder
    from hartonomous.pipelines.reindex import Plan

    if args.language is not None:
        Bm25Encoder.for_language(args.language)
    return Plan(
        collection=args.collection,
        chunking=offline.chunking_of(args, config),
        language=args.language,
        force=args.force,
        keep=args.keep,
    )


async def _told(plan: Plan, reindexed: Reindexed | None, tally: Tally, storage: Storage, call: Call) -> str:
    if reindexed is None:
        return f"{plan.collection}: nothing to do, it is as the configuration wants it (--force embeds it again)"
    documents, chunks = await storage.vectors.counts(plan.collection, call)
    model = (await storage.embedding.fingerprint(call)).model
    kept = "" if reindexed.kept is None else f"; the old one is kept as {reindexed.kept}"
    return (
        f"{plan.collection}: {documents} documents, {chunks} chunks by {model}"
        f" ({tally.tokens} tokens embedded in {tally.seconds:.1f} s){kept}"
    )


def _count(tally: Tally, result: DocumentResult) -> None:
    tally.tokens += round(result.tokens)
    if result.error is None:
        tally.store(result.status, result.chunks)
    else:
        tally.fail(result.id or "a document", result.error.message)
