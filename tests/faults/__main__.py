"""`python -m tests.faults`: a fault proxy, or a backend that lies, by hand; Ctrl-C ends it."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import NoReturn

from tests.faults import kinds, lies
from tests.faults.proxy import FaultProxy, address
from tests.service.fault_backend import FaultBackend

_EPILOG = """examples:
  python -m tests.faults --listen 127.0.0.1:9001 --upstream 127.0.0.1:8081 --fault latency:0.5,0.2 --fault reset:2000
  python -m tests.faults --listen 127.0.0.1:9001 --backend embedding --lie nan
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say in one sentence what is wrong."""
        self.exit(2, f"{message[:1].upper()}{message[1:].rstrip('.')}.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list:
        print(_listed())
        return 0
    try:
        _check(options)
        faults = kinds.combine(*map(kinds.parse, options.fault))
        host, port = address(options.listen)
        upstream = "{}:{}".format(*address(options.upstream)) if options.upstream else None
        backend = (
            lies.liar(options.backend, options.lie, upstream and f"http://{upstream}") if options.backend else None
        )
    except ValueError as error:
        parser.error(str(error))
    try:
        asyncio.run(_serve(host, port, faults, backend, upstream))
    except OSError as error:
        print(f"{options.listen} cannot be listened on: {error.strerror}.", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m tests.faults",
        description="A TCP proxy that spoils connections, or a backend that lies.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--listen", metavar="HOST:PORT", help="where to listen (port 0: a free one)")
    parser.add_argument(
        "--upstream", metavar="HOST:PORT", help="what stands behind; of a lying backend: who knows the truth"
    )
    parser.add_argument("--fault", metavar="NAME[:VALUE[,VALUE]]", action="append", default=[], help="may be repeated")
    parser.add_argument("--backend", choices=lies.SERVICES, help="stand for this service instead of passing bytes on")
    parser.add_argument("--lie", metavar="NAME", help="what the backend answers wrong")
    parser.add_argument("--list", action="store_true", help="name all faults and lies")
    return parser


def _check(options: argparse.Namespace) -> None:
    if not options.listen:
        raise ValueError("--listen is needed.")
    if options.lie and not options.backend:
        raise ValueError("--lie needs --backend.")
    if not options.backend and not options.upstream:
        raise ValueError("--upstream is needed, or --backend.")


def _url(text: str) -> str:
    address(text)
    return (text if "://" in text else f"http://{text}").rstrip("/")


def _listed() -> str:
    lines = ["faults (with -up or -down behind the name: in one direction):"]
    lines += [f"  {name + kind.values:34}{kind.line}" for name, kind in kinds.KINDS.items()]
    lines.append("lies (row of the table of faults):")
    for name, lie in lies.LIES.items():
        who = "any backend" if lie.services == lies.SERVICES else ", ".join(lie.services)
        lines.append(f"  {name:34}{lie.line} ({who}; {lie.row})")
    return "\n".join(lines)


async def _serve(
    host: str, port: int, faults: kinds.Faults, backend: FaultBackend | None, upstream: str | None
) -> None:
    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    async with AsyncExitStack() as stack:
        if backend is not None:
            upstream = (await stack.enter_async_context(backend)).url
        assert upstream is not None
        proxy = await stack.enter_async_context(FaultProxy(upstream, faults, host=host, port=port))
        print(f"Listening on {proxy.url.removeprefix('http://')}; Ctrl-C ends it.", flush=True)
        await asked.wait()
    counts = proxy.counts
    print(f"{counts.connections} connections, {counts.bytes_up} bytes up, {counts.bytes_down} bytes down.")


if __name__ == "__main__":
    sys.exit(main())
