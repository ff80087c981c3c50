"""`python -m tests.monitoring`: load a server while Prometheus watches it, and print what each panel and rule shows.

The exit code is 1 when any of them has nothing. `HARTONOMOUS_TEST_QDRANT_URL` names a vector store to be used instead
of the embedded engine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.llama import LlamaServer, write_model
from tests.monitoring.watch import watch
from tests.service.vector_store import Engine


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.monitoring", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="how long the load lasts (default: %(default)g)")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hartonomous-monitoring-")))
        models = {
            kind: stack.enter_context(LlamaServer(kind, write_model(kind, folder))).url
            for kind in ("embedding", "reranking", "generative")
        }
        store = os.environ.get("HARTONOMOUS_TEST_QDRANT_URL")
        store_url = store.rstrip("/") if store else stack.enter_context(Engine(folder / "vectors")).url
        report = asyncio.run(watch(options.seconds, folder, models, store_url))
    print(*report.lines(), sep="\n")
    return int(report.failed)


if __name__ == "__main__":
    sys.exit(main())
