"""`hartonomous eval FOLDER`: how well the configured retrieval finds what a test collection says it should.

The collection is fed into a scratch collection of its own on the configured backends, which is deleted at the end,
whatever the end is; only a kill leaves it behind, under a name that says what it is.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hartonomous.cli import offline
from hartonomous.cli.common import INTERRUPTED
from hartonomous.errors import ConfigError, HartonomousError

if TYPE_CHECKING:
    from hartonomous.config import Config
    from hartonomous.core.call import Call
    from hartonomous.evaluation.dataset import Dataset
    from hartonomous.evaluation.report import Report
    from hartonomous.wiring import Storage

_DESCRIPTION = """\
Measure the configured retrieval on a test collection in BEIR's format: nDCG@10, recall, MRR and latency of searches by
meaning, by words and by both. The collection is fed into a scratch collection, which is deleted at the end."""
_EPILOG = "Exit status: 0 measured, 1 not measured, 2 wrong usage, configuration or folder, 130 interrupted."
_TERMINATED = 143


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("eval", help="measure retrieval", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="corpus.jsonl, queries.jsonl, qrels/test.tsv")
    offline.add_chunking(parser)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the report to a file as well, as JSON")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="of standard output")
    parser.add_argument("--keep", action="store_true", help="keep the scratch collection, and tell its name")
    offline.add_config(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure and print; 2 with a sentence when the folder is no test collection."""
    from hartonomous.evaluation import dataset, measures

    try:
        measures.require()
        data = dataset.load(args.folder)
    except dataset.DatasetError as error:
        offline.complain(f"hartonomous eval: {error.message}")
        return 2
    except HartonomousError as error:
        offline.complain(f"hartonomous eval: {error.message}")
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED

    async def command(storage: Storage, config: Config, call: Call) -> int:
        return await _until_terminated(_eval(args, data, storage, config, call))

    return offline.run("eval", args, command)


async def _until_terminated(work: Coroutine[Any, Any, int]) -> int:
    """Do the work; SIGTERM ends it like Ctrl-C, with everything put away."""
    task, terminated = asyncio.create_task(work), asyncio.Event()

    def terminate() -> None:
        terminated.set()
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
    try:
        return await task
    except asyncio.CancelledError:
        if not terminated.is_set():
            raise
        return _TERMINATED


async def _eval(args: argparse.Namespace, data: Dataset, storage: Storage, config: Config, call: Call) -> int:
    from hartonomous import codec
    from hartonomous.evaluation.report import as_json, as_text

    if args.json is not None:
        _check_writable(args.json)
    async with AsyncExitStack() as stack:
        collection = await stack.enter_async_context(_scratch(storage, call, keep=args.keep))
        report = await _measured(args, data, collection, storage, config, call, stack)
    encoded = codec.dumps(as_json(report), option=codec.INDENTED).decode() + "\n"
    if args.json is not None:
        _write(args.json, encoded)
    sys.stdout.write(encoded if args.format == "json" else as_text(report) + "\n")
    sys.stdout.flush()
    return 0


async def _measured(
    args: argparse.Namespace,
    data: Dataset,
    collection: str,
    storage: Storage,
    config: Config,
    call: Call,
    stack: AsyncExitStack,
) -> Report:
    from hartonomous.evaluation.progress import Shown
    from hartonomous.evaluation.report import Report
    from hartonomous.evaluation.runs import SETTINGS, Judge, feed
    from hartonomous.metrics import Metrics
    from hartonomous.wiring import open_search

    chunking = offline.chunking_of(args, config)
    model = (await storage.embedding.fingerprint(call)).model
    search = open_search(_uncached(config), storage, Metrics(), stack)
    with Shown(sys.stderr) as shown:
        fed = await feed(storage.ingestor, collection, data, chunking, call, shown.progress)
        _tell_failures(fed.failures)
        if not fed.documents:
            raise HartonomousError("no document could be stored")
        judge = Judge(search.searcher, data, collection, fed, config.rag.retrieval)
        wanted = [setting for setting in SETTINGS if search.reranking is not None or not setting.rerank]
        measured = [await judge.measure(setting, call, shown.progress) for setting in wanted]
    return Report(data, model, chunking, config.rag.retrieval, fed, measured, search.reranking is not None)


def _uncached(config: Config) -> Config:
    """Return a configuration by which each question is embedded, as one that is new to the server is."""
    none = config.rag.cache.embeddings.model_copy(update={"max_entries": 1, "max_bytes": 1_024, "ttl_s": 1e-3})
    cache = config.rag.cache.model_copy(update={"embeddings": none})
    return config.model_copy(update={"rag": config.rag.model_copy(update={"cache": cache})})


@asynccontextmanager
async def _scratch(storage: Storage, call: Call, *, keep: bool) -> AsyncIterator[str]:
    """A name for a collection that is deleted at the end; left-overs of kills are told of."""
    from hartonomous.evaluation.runs import SCRATCH, scratch_name

    name = scratch_name()
    for left in await storage.schema.list(call):
        if left.name.startswith(SCRATCH):
            offline.complain(f"{left.name} belongs to another eval, or was left behind by one that was killed")
    try:
        yield name
    finally:
        # A write under way would make the collection again.
        await storage.ingestor.jobs.drain()
        if keep:
            offline.complain(f"kept: the collection {name}")
        else:
            await storage.schema.drop(name, call)


def _tell_failures(failures: list[tuple[str, str]]) -> None:
    for name, sentence in failures:
        offline.complain(f"{name}: {sentence}")


def _check_writable(path: Path) -> None:
    """Find out before minutes of work that the report cannot be written."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigError(f"{path} cannot be written: expected a file in a folder that there is")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
