"""`hartonomous ingest PATH…`: sends files and folders to the API, and keeps a collection like them."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from hartonomous.cli.common import (
    INTERRUPTED,
    KEY,
    OutputError,
    UsageError,
    add_server,
    api_key,
    complain,
    end_output,
    print_all_letters,
    show,
    utf8,
    whole,
)

if TYPE_CHECKING:
    from hartonomous.sending.faults import SendingError
    from hartonomous.sending.passes import Plan
    from hartonomous.sending.tally import Tally

_DESCRIPTION = """\
Send text, Markdown, HTML, PDF and DOCX files to the API. A document's id is the name of PATH and the way down from
there (handbook/limits/cpu.md), wherever it is sent from. What the server has already is not embedded again, so what was
interrupted is simply run again."""
_EPILOG = f"""\
The key is read from the environment ({KEY}) or from --key-file. A PATTERN without a slash fits a name, one with a
slash the path below PATH; **/ is any number of folders. Exit status: 0 all is stored, 1 something is not, 2 wrong
usage, 130 interrupted."""
_STDIN = "-"
# Longer than the server takes by default for one document: what it says of that is worth hearing.
_GIVE_UP_S = 360.0


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("ingest", help="send files and folders", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="file or folder; - reads NDJSON documents from stdin")
    add_server(parser)
    parser.add_argument("--collection", type=utf8, metavar="NAME", help="default: the server's")
    parser.add_argument("--prefix", type=_prefix, metavar="TEXT", help="begin every id with TEXT/")
    parser.add_argument("--include", action="append", default=[], metavar="PATTERN", help="send only these files")
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="PATTERN", help="leave out these files and folders"
    )
    parser.add_argument("--max-tokens", type=whole, metavar="N", help="of a chunk; default: the server's")
    parser.add_argument("--overlap-tokens", type=whole, metavar="N", help="of neighbours; default: the server's")
    parser.add_argument(
        "--metadata", type=_pair, action="append", default=[], metavar="KEY=VALUE", help="of every document"
    )
    parser.add_argument("--watch", action="store_true", help="stay, and send what changes")
    parser.add_argument("--prune", action="store_true", help="delete the documents whose files are gone")
    parser.add_argument("--dry-run", action="store_true", help="say what would be sent and deleted, do nothing")
    parser.add_argument(
        "--give-up-after",
        type=_seconds,
        default=_GIVE_UP_S,
        metavar="SECONDS",
        help="without any progress; default %(default)g",
    )
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument("--quiet", action="store_true", help="print failures alone")
    loudness.add_argument("--no-progress", action="store_true", help="show no progress")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Send what is asked for; return the exit status."""
    import asyncio

    try:
        plan = _plan(args)
    except UsageError as error:
        print(f"hartonomous ingest: {error}", file=sys.stderr)
        return 2
    try:
        return asyncio.run(_run(args, plan))
    except KeyboardInterrupt:
        return INTERRUPTED
    except OutputError as error:
        return end_output(error)


async def _run(args: argparse.Namespace, plan: Plan) -> int:
    from hartonomous.sending import passes
    from hartonomous.sending.progress import make_display

    if args.dry_run:
        return await _preview(plan)
    display = make_display(progress=not args.no_progress, quiet=args.quiet)
    report = _Report(quiet=args.quiet)
    if args.watch:
        await passes.run_watching(plan, display, report)
    elif args.paths == [_STDIN]:
        await passes.run_stdin(plan, display, report)
    else:
        await passes.run_once(plan, display, report)
    return int(report.failed)


class _Report:
    """Tells the end of a pass: failures on standard error, the summary on standard output."""

    def __init__(self, *, quiet: bool) -> None:
        self.failed = False
        self._quiet = quiet
        self._first = True

    def __call__(self, tally: Tally, ended: SendingError | None) -> None:
        troubles = [*map(str, tally.failures), *tally.doubts, *([str(ended)] if ended else [])]
        self.failed = self.failed or bool(troubles)
        for trouble in troubles:
            complain(trouble)
        # While watching, a look that found nothing to do is not worth a line.
        if not self._quiet and (self._first or tally.done or tally.deleted):
            show(tally.summary())
        self._first = False


async def _preview(plan: Plan) -> int:
    from hartonomous.sending.faults import SendingError
    from hartonomous.sending.naming import printable
    from hartonomous.sending.passes import preview
    from hartonomous.sending.progress import Silent

    try:
        found, gone = await preview(plan, Silent(sys.stderr))
    except SendingError as error:
        complain(str(error))
        return 1
    print_all_letters()
    for file in found.files:
        show(f"would send {printable(file.name)}")
    for document_id in gone.ids:
        show(f"would delete {printable(document_id)}")
    troubles = [*map(str, found.failures), *gone.doubts]
    for trouble in troubles:
        complain(trouble)
    show(f"{len(found.files)} would be sent, {len(gone.ids)} deleted")
    return int(bool(troubles))


def _plan(args: argparse.Namespace) -> Plan:
    """Return what is asked for. Raises UsageError."""
    from hartonomous.sending.client import Target
    from hartonomous.sending.globs import Globs
    from hartonomous.sending.passes import Plan
    from hartonomous.sending.walk import Filters, RootsError, make_roots

    _check(args)
    try:
        roots = [] if args.paths == [_STDIN] else make_roots(args.paths, args.prefix or "")
        filters = Filters(Globs(args.include), Globs(args.exclude))
    except (RootsError, ValueError) as error:
        raise UsageError(str(error)) from error
    return Plan(
        target=Target(args.url, args.collection, args.max_tokens, args.overlap_tokens),
        key=api_key(args.key_file),
        roots=roots,
        filters=filters,
        metadata=dict(args.metadata),
        prune=args.prune,
        give_up_s=args.give_up_after,
    )


def _check(args: argparse.Namespace) -> None:
    """Raise UsageError for options that do not go together."""
    if _STDIN in args.paths:
        if len(args.paths) > 1:
            raise UsageError("- (standard input) goes with no other PATH")
        others = ("include", "exclude", "metadata", "watch", "prune", "dry_run", "prefix")
        given = next((name for name in others if getattr(args, name)), None)
        if given:
            raise UsageError(f"--{given.replace('_', '-')} has no meaning for standard input")
    if args.dry_run and args.watch:
        raise UsageError("--dry-run and --watch do not go together")
    if args.dry_run and args.prune and not args.collection:
        raise UsageError("--dry-run --prune needs --collection: nothing is sent that would tell the server's default")


def _prefix(text: str) -> str:
    from hartonomous.sending.naming import document_name

    body = text.strip("/")
    if not body or len(body) > 128 or document_name(body).id != body or {"", ".", ".."} & set(body.split("/")):
        raise argparse.ArgumentTypeError(f"{text!r} cannot stand at the beginning of an id")
    return body


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals) or any("\ud800" <= char <= "\udfff" for char in text):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE in UTF-8")
    return key, value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds up to 86400")
    return value
