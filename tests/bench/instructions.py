"""Instructions of a chat and of a question, ours and those of the bare programs: `python -m tests.bench.instructions`.

Valgrind counts what a program executes itself, without the kernel's part. That is the same to one in a hundred whatever
else the machine is busy with, where times are not: by it a change to the hot path can be judged that saves two in a
hundred. It runs fifty times slower so, and the caches of a real processor are another matter: times have the last word.
"""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson

from tests.bench.machine import Cores, program
from tests.bench.processes import Maker, Program
from tests.bench.rig import CHAT_PATH, HEADERS, QUERY_PATH, YAML, Rig, chat_body, rig
from tests.bench.texts import question
from tests.service.vector_store import free_port

_CONNECTIONS, _WARM_UP, _COUNTED = 8, 400, 240
_TOTALS = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)


def main() -> int:
    """Print a line for each; return the exit code."""
    cores = Cores.here()
    os.sched_setaffinity(0, cores.load)
    with tempfile.TemporaryDirectory(prefix="hartonomous-bench-") as folder, rig(Maker(Path(folder), cores)) as made:
        floors = {
            "chat": ["tests.bench.floors.gateway", "{port}", made.models],
            "question": ["tests.bench.floors.rag", "{port}", made.embedding.url, *3 * [made.models]],
        }
        for kind, command in floors.items():
            bare = _count(made, kind, f"bare-{kind}", command, {})
            serve = ["hartonomous", "serve", "--config", str(YAML)]
            ours = _count(made, kind, kind, serve, made.environment(port := free_port(), {}, name=kind), port)
            print(
                f"{kind:<10} {ours:>10,.0f} instructions; bare aiohttp {bare:,.0f}; ratio {bare / ours:.3f}", flush=True
            )
    return 0


def _count(made: Rig, kind: str, name: str, command: Sequence[str], environ: Mapping[str, str], port: int = 0) -> float:
    """Start a program under callgrind; return how many instructions a request takes once it is warm."""
    port, out = port or free_port(), made.folder / f"{name}.callgrind"
    callgrind = [program("valgrind"), "-q", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
    counted = Program(
        *(*callgrind, *made.maker.python(*command)),
        log=made.folder / f"{name}.log",
        cores=made.maker.cores.load,
        port=port,
        environ={**environ, "PYTHONHASHSEED": "0"},
        bound=False,
    )
    with counted:
        _ask(port, kind, 1_000_000, _WARM_UP)
        _let_count(counted.pid, "on")
        _ask(port, kind, 2_000_000, _COUNTED)
        _let_count(counted.pid, "off")
    return total_of(out.read_text(encoding="utf-8", errors="replace")) / _COUNTED


def total_of(written: str) -> int:
    """Return how many instructions a file of callgrind's says that there were; raise RuntimeError where it does not."""
    found = _TOTALS.findall(written)
    if not found:
        raise RuntimeError("callgrind has not written how many instructions it counted")
    return max(map(int, found))


def _let_count(pid: int, on_or_off: str) -> None:
    command = [program("callgrind_control"), "-i", on_or_off, str(pid)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _ask(port: int, kind: str, first: int, count: int) -> None:
    """Send so many requests over a few connections. Raises RuntimeError when one is not answered well."""

    def send(connection_number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        begin = first + connection_number * count
        for number in range(begin, begin + count // _CONNECTIONS):
            body = chat_body() if kind == "chat" else orjson.dumps({"query": question(number)})
            path = CHAT_PATH if kind == "chat" else QUERY_PATH
            connection.request("POST", path, body, {**HEADERS, "Content-Type": "application/json"})
            response = connection.getresponse()
            answered = response.read()
            if response.status != 200:
                raise RuntimeError(f"{path} was answered {response.status}: {answered[:300]!r}")

    with ThreadPoolExecutor(_CONNECTIONS) as threads:
        list(threads.map(send, range(_CONNECTIONS)))


if __name__ == "__main__":
    sys.exit(main())
