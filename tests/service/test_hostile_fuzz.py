"""Some thousand broken requests of a seed: no 500, no hang, and afterwards the server is as it was.

`HARTONOMOUS_TEST_FUZZ=SEED:REQUESTS` sends others, or more.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.service.application import eventually
from tests.service.fault_backend import FaultBackend
from tests.service.rag import CHAT
from tests.service.serving import Served, backends, serving
from tests.service.sockets import HOST, ask, connected, get, post

SEED, REQUESTS = (int(part) for part in os.environ.get("HARTONOMOUS_TEST_FUZZ", "6:2000").split(":"))
AT_ONCE = 32
MIB = 1024 * 1024
FORM = b"Content-Type: multipart/form-data; boundary=x"
LINES = b"Content-Type: application/x-ndjson"

SOUND = (
    get("/health"),
    get("/ready"),
    get("/metrics"),
    get("/openapi.json"),
    get("/v1/models"),
    get("/rag/collections"),
    get("/rag/collections/docs/documents?limit=5&cursor=x"),
    get("/rag/collections/docs/documents/a%2Fb"),
    get("/admin/logs?limit=5"),
    get("/rag/collections/docs").replace(b"GET", b"DELETE"),
    post(
        "/rag/search", b'{"query": "a", "filter": {"must": [{"key": "metadata.a", "match": {"value": 1}}]}, "top_k": 5}'
    ),
    post("/rag/query", b'{"query": "a", "stream": true, "messages": [{"role": "user", "content": "b"}]}'),
    post("/rag/batch-query", b'{"queries": [{"query": "a"}, {"query": "b"}], "stream": true}'),
    post("/rag/ingest", b'{"documents": [{"id": "a", "text": "b", "metadata": {"c": [1, 2.5, null, "d"]}}]}'),
    post("/rag/ingest?max_tokens=64", b'{"id": "a", "text": "b"}\n{"id": "c", "text": "d"}\n', LINES),
    post(
        "/rag/ingest", b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.txt"\r\n\r\nb\r\n--x--\r\n', FORM
    ),
    post("/v1/rerank", b'{"query": "a", "documents": ["b", {"text": "c"}], "top_n": 1}'),
    post("/v1/embeddings", b'{"input": ["a"], "model": "b"}'),
    post(CHAT, b'{"messages": [{"role": "user", "content": "a"}], "stream": true}'),
    post(CHAT, b'{"model": "rag:docs", "messages": [{"role": "user", "content": "a"}]}'),
    b"POST /v1/rerank HTTP/1.1\r\n"
    + HOST
    + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"a":\r\n3;x=y\r\n 1}\r\n0\r\nT: u\r\n\r\n',
)

PIECES = (
    *(b"\x00", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\xff", b"\xed\xa0\x80", b" ", b"\t", b":", b",", b"%", b"%2e%2e/"),
    *(
        b"a" * 9_000,
        b"9" * 400,
        b"-1",
        b"1e400",
        b"NaN",
        b"null",
        b"true",
        b"[" * 2_000,
        b'{"a":' * 2_000,
        b'"',
        b"\\ud800",
    ),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: x\r\n", b"Connection: close\r\n"),
    *(b"Expect: 100-continue\r\n", b"Upgrade: websocket\r\nConnection: upgrade\r\n", b"Content-Encoding: gzip\r\n"),
    *(
        b"X-Request-Timeout-Ms: 0\r\n",
        b"X-Request-Timeout-Ms: 50\r\n",
        b"X-Forwarded-For: 1.2.3.4\r\n",
        b"Range: bytes=0-\r\n",
    ),
    *(b"Authorization: Bearer x\r\n", b"Origin: null\r\n", b"Cookie: a=b\r\n", b"TE: trailers\r\n", b"If-Match: *\r\n"),
)


def mutated(chance: random.Random) -> bytes:
    """Return a request of which some bytes were changed, lost, doubled, put in, or exchanged with another's."""
    data = bytearray(chance.choice(SOUND))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        place = chance.randrange(len(data) + 1)
        match chance.randrange(7):
            case 0:
                data[place:place] = chance.choice(PIECES)
            case 1:
                del data[place : place + chance.choice((1, 2, 16, 200))]
            case 2:
                data[place : place + 1] = bytes((chance.randrange(256),))
            case 3:
                data[place:place] = data[place : place + chance.choice((1, 16, 200))]
            case 4:
                other = chance.choice(SOUND)
                data[place:] = other[chance.randrange(len(other)) :]
            case 5:
                lines = data.split(b"\r\n")
                chance.shuffle(lines)
                data = bytearray(b"\r\n".join(lines))
            case 6:
                data[: data.find(b" ")] = chance.choice(
                    (b"HEAD", b"OPTIONS", b"PUT", b"PATCH", b"TRACE", b"CONNECT", b"get")
                )
        data = data or bytearray(b"\r\n")
    return bytes(data)


async def fuzz(port: int, chance: random.Random, requests: int, seen: Counter[bytes]) -> None:
    """Send requests on connections of their own; each must end by itself once the client has finished."""
    for _ in range(requests):
        data = mutated(chance)
        async with connected(port) as client:
            for part in (data[: (cut := chance.randrange(len(data) + 1))], data[cut:]):
                client.writer.write(part)
                await asyncio.sleep(0)
            if chance.random() < 0.5:
                with suppress(OSError):  # the server has closed it
                    client.writer.write_eof()
            answer = await client.rest()
        statuses = re.findall(rb"HTTP/1\.[01] (\d\d\d) ", answer)
        seen.update(statuses or [b"closed"])
        assert b"500" not in statuses, (data, answer)


def resources(served: Served) -> tuple[int, int]:
    """Return memory in bytes, and descriptors, of the server."""
    process = Path(f"/proc/{served.process.pid}")
    return int((process / "statm").read_text(encoding="ascii").split()[1]) * 4_096, len(
        list((process / "fd").iterdir())
    )


async def test_broken_requests_leave_the_server_as_it_was(tmp_path: Path, faulty: FaultBackend) -> None:
    short = {"header_timeout_s": 0.3, "body_timeout_s": 0.3, "write_timeout_s": 5.0, "keepalive_s": 0.2}
    services, seldom = backends(faulty.url, faulty.url), {"interval_s": 60.0}
    async with serving(tmp_path, backends=services, server=short, health=seldom) as served:
        chance, seen = random.Random(SEED), Counter[bytes]()
        await fuzz_side_by_side(served.port, chance, REQUESTS // 3, seen)
        memory, descriptors = resources(served)
        await fuzz_side_by_side(served.port, chance, REQUESTS - REQUESTS // 3, seen)
        assert (await ask(served.port, get("/health")))[0] == 200
        assert seen.total() >= REQUESTS
        assert {b"200", b"400", b"404", b"408", b"422"} <= seen.keys()
        await eventually(lambda: resources(served)[1] <= descriptors, "descriptors are closed")
        assert resources(served)[0] - memory < 48 * MIB
        assert not [line for line in served.lines if line["level"] == "ERROR"]
        served.stop()
        assert await served.exit_code() == 0


async def fuzz_side_by_side(port: int, chance: random.Random, requests: int, seen: Counter[bytes]) -> None:
    async with asyncio.timeout(60 + requests / 10), asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(fuzz(port, random.Random(chance.random()), requests // AT_ONCE + 1, seen))
