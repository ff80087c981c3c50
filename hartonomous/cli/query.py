"""`hartonomous query QUESTION`: asks the API, and shows the answer as it comes and the sources that it uses."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from hartonomous import codec
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
    from hartonomous.sending.client import Api

_DESCRIPTION = """\
Ask a question. The answer is printed as it comes, then the sources that it uses, on standard output; what it was made
without is told on standard error."""
_EPILOG = f"""\
The key is read from the environment ({KEY}) or from --key-file. Exit status: 0 answered, 1 not, or not to the end,
2 wrong usage, 130 interrupted."""
_STDIN = "-"
# Longer than the server takes by default: what it says of that is worth hearing.
_GIVE_UP_S = 360.0


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("query", help="ask a question", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("question", nargs="+", metavar="QUESTION", help="- reads it from standard input")
    add_server(parser)
    parser.add_argument("--collection", type=utf8, metavar="NAME", help="default: the server's")
    parser.add_argument("--top-k", type=whole, metavar="N", help="sources at most; default: the server's")
    parser.add_argument("--mode", choices=("hybrid", "dense", "sparse"), help="of the search; default: hybrid")
    parser.add_argument("--filter", type=_object, metavar="JSON", help="Qdrant's, of what is searched")
    parser.add_argument("--max-tokens", type=whole, metavar="N", help="of the answer; default: the server's")
    parser.add_argument("--json", action="store_true", help="print the whole answer as a line of JSON instead")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask and print; return the exit status."""
    import asyncio

    if sys.stdout is None:
        complain("Standard output is closed.")
        return 1
    try:
        question, key = _question(args), api_key(args.key_file)
        print_all_letters()
        return asyncio.run(_run(args, question, key))
    except UsageError as error:
        print(f"hartonomous query: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    except OutputError as error:
        return end_output(error)


async def _run(args: argparse.Namespace, question: dict[str, Any], key: str | None) -> int:
    from hartonomous.sending.client import Target, connected
    from hartonomous.sending.faults import SendingError

    async with connected(Target(args.url), key, _GIVE_UP_S) as api:
        try:
            await (_print_json(api, question) if args.json else _print(api, question))
        except SendingError as error:
            complain(str(error))
            return 1
    return 0


async def _print(api: Api, question: dict[str, Any]) -> None:
    from hartonomous.sending.reading import Reader, UnwritableError

    reader = Reader(sys.stdout, complain)
    try:
        await api.answer_streaming(question, reader)
    except UnwritableError as error:
        raise OutputError from error.__cause__
    except BaseException:
        reader.end()
        raise


async def _print_json(api: Api, question: dict[str, Any]) -> None:
    from hartonomous.sending.reading import json_line

    show(json_line(await api.answer(question)))


def _question(args: argparse.Namespace) -> dict[str, Any]:
    """Return the body of the request. Raises UsageError."""
    text = _read() if args.question == [_STDIN] else " ".join(args.question)
    if not text.strip() or any("\ud800" <= char <= "\udfff" for char in text):
        raise UsageError("the question is empty, or no UTF-8")
    given = {name: getattr(args, name) for name in ("collection", "top_k", "mode", "filter", "max_tokens")}
    return {"query": text.strip(), **{name: value for name, value in given.items() if value is not None}}


def _read() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise UsageError(f"standard input cannot be read: {error.strerror}") from error


def _object(text: str) -> dict[str, Any]:
    try:
        value = codec.loads(text)
    except codec.NotJsonError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object")
    return value
