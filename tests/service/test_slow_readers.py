"""A client that opens a stream and stops reading is cut off, and the backend's slot is free again."""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial

import aiohttp

from tests.service import fault_backend as fault
from tests.service.application import WAIT_S, ConfigMaker, RunningApp, eventually, running
from tests.service.fault_backend import FaultBackend
from tests.service.rag import sample
from tests.service.sockets import connected, port_of, post

CHAT = "/v1/chat/completions"


async def test_row_35_a_client_that_stops_reading_is_cut_off(make_config: ConfigMaker, faulty: FaultBackend) -> None:
    sent = 0

    async def endless(exchange: fault.Exchange) -> None:
        nonlocal sent
        await exchange.head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        while not exchange.request.closed.is_set():
            await exchange.chunk(b"data: " + b"x" * 65_536 + b"\n\n")
            sent += 65_536

    faulty.on(CHAT, endless)
    config = make_config(server={"write_timeout_s": 0.2}, backends={"generative": {"urls": (faulty.url,)}})
    async with running(config) as app:
        host, port = app.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        body = json.dumps({"messages": [], "stream": True}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await eventually(lambda: bool(faulty.calls(CHAT)), "the backend is asked")
        replica = app.runtime.pools["generative"].replicas[0]
        await eventually(lambda: replica.active == 0, "the slot is free again")
        await asyncio.wait_for(faulty.calls(CHAT)[0].closed.wait(), WAIT_S)
        assert sent < 32 << 20  # what the sockets on the way hold; the server itself does not gather it
        writer.close()
        del reader


async def test_a_client_that_reads_late_gets_all_of_a_stream_whose_backend_has_waited(
    make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    events = [b"data: %d " % number + b"x" * 65_536 + b"\n\n" for number in range(500)] + [b"data: [DONE]\n\n"]
    sent, sent_at = 0, 0.0

    async def talkative(exchange: fault.Exchange) -> None:
        nonlocal sent, sent_at
        await exchange.head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        for event in events:
            await exchange.chunk(event)
            sent, sent_at = sent + 1, time.monotonic()
        await exchange.raw(b"0\r\n\r\n")

    faulty.on(CHAT, talkative)
    held_s = 0.6
    backends = {"generative": {"urls": (faulty.url,), "idle_timeout_s": held_s / 3}}
    async with (
        running(make_config(backends=backends)) as app,
        aiohttp.ClientSession(read_bufsize=1024) as session,
        session.post(app.url + CHAT, json={"messages": [], "stream": True}) as response,
    ):
        # Its silence is not the backend's, which therefore has all the time that its client takes.
        await eventually(lambda: sent > 0 and time.monotonic() - sent_at > held_s, "the backend waits")
        assert sent < len(events)
        assert await response.read() == b"".join(events)


async def test_a_client_that_is_slow_near_the_end_of_a_stream_gets_its_end(
    make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    event, count = b"data: " + b"x" * 8_000 + b"\n\n", 400
    last, sent_at, is_read = b"data: 1\n\ndata: [DONE]\n\n", 0.0, asyncio.Event()

    async def behave(exchange: fault.Exchange) -> None:
        nonlocal sent_at
        await exchange.head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        for _ in range(count):
            await exchange.chunk(event)
            sent_at = time.monotonic()
        await is_read.wait()
        await exchange.raw(b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last))

    faulty.on(CHAT, behave)
    config = make_config(backends={"generative": {"urls": (faulty.url,), "idle_timeout_s": 3}})
    async with running(config, buffer_bytes=16_384) as app, connected(port_of(app.url)) as client:
        client.pause()
        client.writer.write(post(CHAT, b'{"messages":[],"stream":true}', b"Connection: close"))
        await eventually(lambda: sent_at and time.monotonic() - sent_at > 0.3, "all are held")
        client.resume()
        received = b""
        while received.count(event) < count:
            received += await client.reader.read(1 << 16)
        is_read.set()
        received += await client.rest()
        assert last in received
        assert b'"error"' not in received
        await eventually(partial(_succeeded, app), "the call has ended well")
        assert app.runtime.pools["generative"].replicas[0].breaker.state == "closed"


def _succeeded(app: RunningApp) -> bool:
    return sample(app, "hartonomous_backend_requests_total", service="generative", outcome="2xx") == 1
