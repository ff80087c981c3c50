"""What a vector store of many documents answers: other rankings for other questions.

What the application keeps of a source (some 375 of 800 characters) it has again where FEW rankings come evenly: 250
sources, all of which are soon known. Of MANY, 2,000 sources, it has one in five. A real corpus lies between: some
documents are asked for again and again, most of them seldom.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson

from tests.bench.texts import retold

FEW, MANY = 50, 400
"""So many rankings there are, of twenty chunks each that no other one has."""


def files(static: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield the names and the contents of the rankings, made of `batch.json` and `query.json`."""
    for number in range(MANY):
        for name in ("batch", "query"):
            yield f"{name}-{number}.json", varied(static[f"{name}.json"], number)


def varied(answer: bytes, number: int) -> bytes:
    """Return an answer of the store (with `result.points`, or several of these) with other chunks for each number.

    What a chunk says first stays, so that an answer that rested on it still does. A chunk is the same in all rankings
    of an answer.
    """
    told = orjson.loads(answer)
    result = told["result"]
    for ranking in result if isinstance(result, list) else [result]:
        for point in ranking["points"]:
            _vary(point, number)
    return orjson.dumps(told)


def _vary(point: dict[str, Any], number: int) -> None:
    payload = point["payload"]
    # The document's part of the id, and the rest: see `hartonomous.core.fingerprint.point_id`.
    seed = int(uuid.UUID(point["id"])) % 1_000_003 * MANY + number
    point["id"] = point["id"][:24] + f"{seed:012x}"
    payload["document_id"] += f"-{number}"
    payload["text"] = _retold(payload["text"], seed)
    payload["end"] = payload["start"] + len(payload["text"])
    payload["content_hash"] = hashlib.sha256(payload["text"].encode()).hexdigest()


# The chunks of one ranking after the other.
_retold = lru_cache(maxsize=64)(retold)
