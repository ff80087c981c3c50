"""An ingest against a loop that does nothing but send full batches to the embedding service."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import orjson

from tests.bench.plan import Plan
from tests.bench.processes import Program
from tests.bench.rig import HEADERS, Rig
from tests.bench.table import TARGETS, Row
from tests.bench.texts import passage

_BATCH = 64
_PACE = {"call_s": 0.030, "slots": 1}
# Passages of a document, and the chunks that they become.
_PASSAGES, _CHUNKS = 24, 48
_LIMIT_S = 600


def ingest(rig: Rig, plan: Plan) -> Row:
    """Measure the bare loop, and the ingest of documents into the vector engine."""
    # Made before: drawing their words takes most of a second of the core that the service and the engine share.
    lines = list(_lines(plan.chunks // _CHUNKS))
    with (
        rig.beside({"embedding": _PACE}) as paced,
        rig.application({"embedding": paced.url, "store": rig.engine}) as ours,
    ):
        _loop(paced, plan.chunks // _BATCH)
        bare = _used(paced)
        counts = _ingest(ours, lines)
        used = _used(paced)
    notes = [
        f"bare loop: {_told(bare)}",
        f"ingest: {_told(used)}; {counts['created']} documents",
        f"a batch of {_BATCH} texts takes {_PACE['call_s'] * 1000:g} ms, one at a time; into the vector engine",
    ]
    fails = "" if not counts["failed"] else f"{counts['failed']} documents failed"
    return Row(TARGETS["ingest"], used["useful"] / bare["useful"], notes, {"bare": bare, "ingest": used}, fails)


def _loop(paced: Program, batches: int) -> None:
    body = orjson.dumps({"input": [passage(number) for number in range(_BATCH)], "encoding_format": "base64"})
    connection = HTTPConnection("127.0.0.1", paced.port, timeout=_LIMIT_S)
    for _ in range(batches):
        connection.request("POST", "/v1/embeddings", body)
        connection.getresponse().read()
    connection.close()


def _ingest(ours: Program, lines: list[bytes]) -> dict[str, int]:
    connection = HTTPConnection("127.0.0.1", ours.port, timeout=_LIMIT_S)
    headers = {**HEADERS, "Content-Type": "application/x-ndjson", "X-Request-Timeout-Ms": str(_LIMIT_S * 1000)}
    connection.request("POST", "/rag/ingest?collection=ingested", iter(lines), headers, encode_chunked=True)
    response = connection.getresponse()
    last = deque(response, maxlen=1).pop()
    connection.close()
    told = json.loads(last)
    if response.status != 200 or "counts" not in told:
        raise RuntimeError(f"the ingest ended with {response.status}: {last!r}")
    counts: dict[str, int] = told["counts"]
    return counts


def _lines(documents: int) -> Iterator[bytes]:
    for number in range(documents):
        text = "\n\n".join(passage(number * _PASSAGES + place) for place in range(_PASSAGES))
        yield orjson.dumps({"id": f"document-{number}", "text": text}) + b"\n"


def _used(paced: Program) -> dict[str, Any]:
    """Return how the service was used since the last look; `useful`: how much of its capacity."""
    connection = HTTPConnection("127.0.0.1", paced.port, timeout=60)
    connection.request("GET", "/stats")
    stats = json.loads(connection.getresponse().read())["embedding"]
    connection.request("POST", "/pace", orjson.dumps({"embedding": _PACE}))
    connection.getresponse().read()
    connection.close()
    busy = stats["busy_s"] / (stats["last_s"] - stats["first_s"])
    fill = stats["texts"] / stats["calls"] / _BATCH
    return {**stats, "busy": busy, "fill": fill, "useful": busy * fill}


def _told(used: dict[str, Any]) -> str:
    batches = f"{used['texts']} texts in {used['calls']} batches"
    return f"busy {used['busy']:.1%} of {used['last_s'] - used['first_s']:.1f} s, {batches}, {used['fill']:.1%} full"
