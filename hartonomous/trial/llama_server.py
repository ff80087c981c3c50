"""One model served by llama.cpp's own HTTP server: `python -m hartonomous.trial.llama_server --kind … --model …`.

The server is the one that llama.cpp ships, from the `xllamacpp` wheel: `/v1/…`, `/tokenize`, `/props`, `/health`. One
model a process. When the model is loaded the address is printed, so `--port 0` (any free port) is of use. Nothing is
to be saved at the end, hence signals keep their default action: SIGTERM ends the process at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from xllamacpp import CommonParams

# llama.cpp keeps a thread for each idle keep-alive connection: too few, and new connections wait for seconds.
_HTTP_THREADS = 32
_MOST_THREADS = 8
_SLEEP_WHEN_IDLE = 0
_WARNINGS_ONLY = 2


@dataclass(frozen=True, slots=True)
class Kind:
    """How a sort of model is served: `slots` requests at a time, each with `context` tokens."""

    slots: int
    context: int


KINDS: Final = {
    "generative": Kind(slots=2, context=4096),
    "embedding": Kind(slots=4, context=512),
    "reranking": Kind(slots=4, context=512),
}


def parameters(kind: str, model: Path, port: int, alias: str, threads: int | None = None) -> CommonParams:
    """Return llama.cpp's parameters for a model on `127.0.0.1:port`."""
    from xllamacpp import CommonParams, llama_pooling_type

    served = KINDS[kind]
    params = CommonParams()
    params.model.path = str(model)
    params.model_alias = {alias}
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_parallel, params.n_ctx = served.slots, served.slots * served.context
    params.n_threads_http = _HTTP_THREADS
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = threads or default_threads(os.cpu_count() or 1)
        cpu.poll = _SLEEP_WHEN_IDLE
    params.verbosity = _WARNINGS_ONLY
    params.fit_params = False  # the context is given: nothing to search for
    params.ui = False
    params.cache_ram_mib = 0
    if kind != "generative":
        params.embedding = True
        # A text is embedded in one piece: the physical batch must hold the longest.
        params.n_batch = params.n_ubatch = served.slots * served.context
    if kind == "reranking":
        params.pooling_type = llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    return params


def default_threads(cores: int) -> int:
    """Return how many threads compute on a machine of so many cores: one core is left to everybody else.

    llama.cpp's threads spin at barriers. When another process takes the core of one, all others burn theirs: on two
    busy cores two threads made 3 to 10 tokens/s, one thread 23 to 41.
    """
    return max(1, min(cores - 1, _MOST_THREADS))


def main(argv: list[str] | None = None) -> None:
    """Serve until a signal ends the process."""
    options = _options(argv)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    from xllamacpp import Server

    alias = options.alias or options.model.stem
    try:
        server = Server(parameters(options.kind, options.model, options.port, alias, options.threads))
    except RuntimeError:
        # llama.cpp has said what it minds, in lines of its own above.
        sys.exit(
            f"The model {options.model} cannot be loaded: damaged, or of no kind that this llama.cpp knows. "
            "If the trial fetched it, delete it: the next start fetches it again."
        )
    print(server.listening_address, flush=True)
    while True:
        signal.pause()


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hartonomous.trial.llama_server", description="Serve one GGUF model.")
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the GGUF file")
    parser.add_argument("--port", type=int, default=0, help="0: any free port (default)")
    parser.add_argument("--alias", help="the model's name to clients (default: the file's)")
    parser.add_argument("--threads", type=int, help="threads that compute (default: all cores but one)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
