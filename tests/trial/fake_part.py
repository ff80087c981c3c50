"""A cheap part of a stack: `python -m tests.trial.fake_part NAME PORT JOURNAL [--OPTION…]` answers `/health`.

It appends `NAME SIGNAL` to the file JOURNAL for each signal that it gets.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType

_SECONDS_OF_A_GRANDCHILD = "600"


def main() -> None:
    options = _options()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            healthy = options.healthy_when is None or options.healthy_when.exists()
            self.send_response(200 if healthy else 503)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    def on_signal(number: int, frame: FrameType | None) -> None:
        with options.journal.open("a") as journal:
            journal.write(f"{options.name} {signal.Signals(number).name}\n")
        if not options.stubborn:
            os._exit(0)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    if options.grandchild:
        # The journal's path marks it as ours.
        wait = f"import time; time.sleep({_SECONDS_OF_A_GRANDCHILD})"
        subprocess.Popen([sys.executable, "-c", wait, str(options.journal)])
    print(f"{options.name} listens", flush=True)
    ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("port", type=int)
    parser.add_argument("journal", type=Path)
    parser.add_argument("--healthy-when", type=Path)
    parser.add_argument("--stubborn", action="store_true")
    parser.add_argument("--grandchild", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
