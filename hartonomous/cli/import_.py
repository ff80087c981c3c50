"""`hartonomous import FILE`: what was exported into a collection, as an ingest."""

from __future__ import annotations

import argparse
import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import FileIO
from typing import TYPE_CHECKING, Any

from hartonomous.cli import offline
from hartonomous.errors import PayloadTooLargeError

if TYPE_CHECKING:
    from hartonomous.config import Config
    from hartonomous.core.call import Call
    from hartonomous.pipelines.documents import DocumentResult
    from hartonomous.sending.tally import Tally
    from hartonomous.wiring import Storage

_DESCRIPTION = """\
Take an export of `hartonomous export` into a collection, which is made when there is none. Documents that are there as
they are stay; what was interrupted is simply run again. Vectors are taken as they are, when the configured embedding
model made them."""
_EPILOG = "Exit status: 0 all is stored, 1 something is not, 2 wrong usage or configuration, 130 interrupted."
_STDIN = "-"
_PIECE = 1024 * 1024
_LINE_BYTES = 1024 * 1024 * 1024


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "import", help="take an export into a collection", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument("file", metavar="FILE", help="- reads standard input")
    parser.add_argument(
        "--collection", type=offline.collection_name, metavar="NAME", help="default: the one that was exported"
    )
    parser.add_argument("--no-vectors", action="store_true", help="embed the documents again")
    offline.add_chunking(parser)
    offline.add_config(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Take the export; 1 with sentences when not all of it is stored."""

    async def command(storage: Storage, config: Config, call: Call) -> int:
        return await _import(args, storage, config, call)

    try:
        return offline.run("import", args, command)
    except OSError as error:
        offline.complain(f"hartonomous import: {args.file}: {error.strerror or error}")
        return 1


async def _import(args: argparse.Namespace, storage: Storage, config: Config, call: Call) -> int:
    from hartonomous.pipelines.transfer import Importer
    from hartonomous.sending.progress import make_display, showing
    from hartonomous.sending.tally import Tally

    chunking = offline.chunking_of(args, config)
    tally = Tally(total=None)
    importer = Importer(storage.embedding, storage.schema, storage.ingestor)
    try:
        async with _lines(args.file) as lines, showing(make_display(progress=sys.stderr.isatty(), quiet=False), tally):
            await importer.run(
                lines,
                args.collection,
                chunking,
                call,
                lambda result: _count(tally, result),
                vectors=not args.no_vectors,
            )
    finally:
        for failure in tally.failures:
            offline.complain(str(failure))
        if tally.done:
            print(tally.summary(), flush=True)
    return int(bool(tally.failures))


def _count(tally: Tally, result: DocumentResult) -> None:
    tally.tokens += round(result.tokens)
    if result.error is None:
        tally.store(result.status, result.chunks)
    else:
        name = "" if result.id is None else f" ({result.id})"
        tally.fail(f"line {result.index}{name}", result.error.message)


@asynccontextmanager
async def _lines(name: str) -> AsyncIterator[AsyncIterator[bytes]]:
    """Open a file, or standard input, and hand out its lines as they come."""
    with _opened(name) as file:
        kind = os.fstat(file.fileno()).st_mode
        if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or file.isatty()):
            yield _cut(_read_file(file))
            return
        # A pipe may have nothing for a while, in which what was read before goes on.
        reader = asyncio.StreamReader(limit=_PIECE)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, file)
        try:
            yield _cut(_read_pipe(reader))
        finally:
            transport.close()


def _opened(name: str) -> FileIO:
    return FileIO(os.dup(0) if name == _STDIN else name)


async def _read_file(file: FileIO) -> AsyncIterator[bytes]:
    while data := file.read(_PIECE):
        yield data


async def _read_pipe(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while data := await reader.read(_PIECE):
        yield data


async def _cut(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    rest = bytearray()
    async for piece in pieces:
        *whole, last = piece.split(b"\n")
        for part in whole:
            rest += part
            yield bytes(rest)
            rest.clear()
        rest += last
        if len(rest) > _LINE_BYTES:
            raise PayloadTooLargeError(f"A line is longer than {_LINE_BYTES} bytes.")
    if rest:
        yield bytes(rest)
