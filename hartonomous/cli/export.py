"""`hartonomous export COLLECTION`: a collection as lines of JSON, in a file that is whole or not there."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from hartonomous.cli import offline

if TYPE_CHECKING:
    from hartonomous.config import Config
    from hartonomous.core.call import Call
    from hartonomous.pipelines.transfer import Exported
    from hartonomous.wiring import Storage

_DESCRIPTION = """\
Write a collection as NDJSON, which `hartonomous import` takes: a header, a line for each document, and a last line by
which a file that was cut off is known. Documents are exported whole while others write."""
_STDOUT = "-"


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("export", help="write a collection as NDJSON", description=_DESCRIPTION)
    parser.add_argument("collection", metavar="COLLECTION", type=offline.collection_name)
    parser.add_argument("--vectors", action="store_true", help="with chunks and vectors, so that nothing is embedded")
    parser.add_argument("--output", default=_STDOUT, metavar="FILE", help="default: - (standard output)")
    offline.add_config(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the export; 1 with a sentence when it could not be written or a document is damaged."""

    async def command(storage: Storage, _config: Config, call: Call) -> int:
        return await _export(args, storage, call)

    try:
        return offline.run("export", args, command)
    except OSError as error:
        offline.complain(f"hartonomous export: {args.output}: {error.strerror or error}")
        return 1


async def _export(args: argparse.Namespace, storage: Storage, call: Call) -> int:
    from hartonomous.clients.moving import Mover
    from hartonomous.pipelines.transfer import Exported, Exporter
    from hartonomous.sending.progress import make_display, showing
    from hartonomous.sending.tally import Tally

    exporter = Exporter(storage.vectors, Mover(storage.pools["qdrant"]), storage.schema)
    info = await exporter.require(args.collection, call)
    total, _ = await storage.vectors.counts(info.name, call)
    exported, tally = Exported(), Tally(total=total)
    # Only a terminal is worth a progress: what is exported tells itself at the end.
    display = make_display(progress=sys.stderr.isatty(), quiet=False)
    with _opened(args.output) as file:
        async with showing(display, tally):
            async for line in exporter.lines(info, call, exported, vectors=args.vectors):
                file.write(line)
                tally.counts["exported"], tally.chunks = exported.documents, exported.chunks
    return _report(exported)


def _report(exported: Exported) -> int:
    for document_id in exported.damaged:
        offline.complain(f"{document_id}: not whole in the store; send it again")
    offline.complain(f"{exported.documents} documents exported ({exported.chunks} chunks)")
    return int(bool(exported.damaged))


@contextmanager
def _opened(output: str) -> Iterator[BinaryIO]:
    """Open what is written to. A file is there only when it is whole, in place of an older one."""
    if output == _STDOUT:
        with os.fdopen(os.dup(1), "wb") as file:
            yield file
        return
    path = Path(os.path.realpath(output))
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        with path.open("wb") as file:  # a device or a pipe: nothing is put in its place
            yield file
        return
    partial = path.with_name(f".{path.name[:200]}.{os.getpid()}")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
