"""Row 31: SIGTERM while many are served. Each request that was accepted has a whole answer, and the exit code is 0."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.service import fault_backend as fault
from tests.service.application import eventually
from tests.service.commands import Points
from tests.service.fault_backend import Behaviour, Exchange, FaultBackend
from tests.service.gate import gate
from tests.service.rag import CHAT, EMBEDDINGS
from tests.service.serving import Served, backends, serving
from tests.service.vector_store import drop_collection

OF_EACH = 8
ASKING = 12


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A session without a limit of connections."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as made:
        yield made


@pytest.fixture
async def collection(vector_url: str, collection_name: str) -> AsyncIterator[str]:
    """A collection that is dropped at the end."""
    yield collection_name
    await drop_collection(vector_url, collection_name)


def _held(event: bytes, rest: bytes, whole: bytes, released: asyncio.Event) -> Behaviour:
    """Answer a stream's first event, or nothing, until it is released."""

    async def behave(exchange: Exchange) -> None:
        if not exchange.request.json.get("stream"):
            if not exchange.request.json.get("at_once"):
                await released.wait()
            await exchange.answer(200, whole, {"Content-Type": "application/json"})
            return
        await exchange.head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        await exchange.chunk(event)
        await released.wait()
        await exchange.chunk(rest)
        await exchange.raw(b"0\r\n\r\n")

    return behave


async def _post(session: aiohttp.ClientSession, url: str, body: Any) -> tuple[int, Any]:
    async with session.post(url, json=body) as response:
        return response.status, await response.json()


async def _stream(session: aiohttp.ClientSession, served: Served, begun: list[int]) -> bytes:
    async with session.post(served.url + CHAT, json={"messages": [], "stream": True}) as response:
        text = await response.content.readuntil(b"\n\n")
        begun.append(1)
        return text + await response.read()


class _Asking:
    """A client that sends one request after the other over a connection that it keeps, until nobody listens.

    Between the server's last look at those who wait in the system's queue and the end of its listening socket the
    system can take one more connection, and resets it. Such a one was never the server's: nothing ever came on it, and
    nobody listens any more. (That the queue is emptied first is shown in `test_listening`.)
    """

    def __init__(self, served: Served) -> None:
        self.answers: list[int] = []
        self.closed = 0
        self.wrong: list[object] = []
        self._port = served.port

    async def run(self) -> None:
        """Ask. A connection that ends before an answer is wrong; one that is refused is the end."""
        untaken = list[object]()
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except ConnectionRefusedError:
                return
            except ConnectionResetError as error:
                untaken.append(error)
                continue
            self.wrong += untaken  # somebody still listens
            untaken.clear()
            answers = len(self.answers)
            try:
                kept = True
                while kept:
                    kept = await self._ask(reader, writer)
                self.closed += 1
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                was_reset = isinstance(error, ConnectionError) and len(self.answers) == answers
                (untaken if was_reset else self.wrong).append(error)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Send a request and read its answer; return whether the connection is kept."""
        body = b'{"messages": [], "at_once": true}'
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        writer.write(head.encode() + b"\r\n\r\n" + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        fields = dict(line.split(": ", 1) for line in answer.split("\r\n")[1:-2])
        text = json.loads(await reader.readexactly(int(fields["Content-Length"])))
        status = int(answer.split(" ")[1])
        self.answers.append(status)
        if status == 503:
            if (fields.get("Retry-After"), text["error"]["code"]) != ("1", "draining"):
                self.wrong.append((fields, text))
        elif status != 200 or not text.get("whole"):
            self.wrong.append((status, text))
        return fields.get("Connection") != "close"


async def test_row_31_whoever_was_accepted_has_a_whole_answer(
    tmp_path: Path, faulty: FaultBackend, vector_url: str, collection: str, session: aiohttp.ClientSession
) -> None:
    released, events, begun = asyncio.Event(), fault.sse(fault.TOKENS), list[int]()
    faulty.on(CHAT, _held(events[0], b"".join(events[1:]), b'{"whole": true}', released))
    faulty.on(EMBEDDINGS, fault.after(fault.DEFAULT, released))
    services = backends(faulty.url, vector_url, concurrency=64)
    async with serving(
        tmp_path, backends=services, rag={"default_collection": collection}, server={"drain_s": 20.0}
    ) as served:
        idle = await asyncio.open_connection("127.0.0.1", served.port)
        streams = [asyncio.create_task(_stream(session, served, begun)) for _ in range(OF_EACH)]
        chats = [asyncio.create_task(_post(session, served.url + CHAT, {"messages": []})) for _ in range(OF_EACH)]
        documents = [{"documents": [{"id": f"d{n}", "text": f"Number {n} is a number."}]} for n in range(OF_EACH)]
        ingests = [asyncio.create_task(_post(session, served.url + "/rag/ingest", each)) for each in documents]
        asking = [_Asking(served) for _ in range(ASKING)]
        clients = [asyncio.create_task(each.run()) for each in asking]
        await eventually(lambda: len(begun) == OF_EACH and faulty.calls(EMBEDDINGS), "all are under way")
        await eventually(lambda: all(each.answers for each in asking), "all are answered")

        served.stop()
        await eventually(lambda: served.told("draining"), "the drain")
        async with session.get(served.url + "/ready") as response:
            assert (response.status, response.headers["Connection"]) == (503, "close")
        await eventually(lambda: all(503 in each.answers for each in asking), "all are refused")
        async with session.get(served.url + "/metrics") as response:
            assert "\nhartonomous_draining 1.0\n" in await response.text()
        assert not any(task.done() for task in (*streams, *chats, *ingests))
        released.set()

        assert set(await asyncio.gather(*streams)) == {b"".join(events)}
        assert await asyncio.gather(*chats) == [(200, {"whole": True})] * OF_EACH
        for status, answer in await asyncio.gather(*ingests):
            assert (status, answer["counts"]["created"]) == (200, 1)
        assert await served.exit_code() == 0
        await asyncio.gather(*clients)
        assert [each.wrong for each in asking if each.wrong] == []
        assert all(each.answers.count(200) and each.closed for each in asking)
        assert await idle[0].read() == b""
        idle[1].close()
        assert not [line for line in served.lines if line["level"] == "ERROR"]
    stored = await Points(vector_url).all(collection)
    assert sorted(point["payload"]["document_id"] for point in stored.values()) == [f"d{n}" for n in range(OF_EACH)]
    assert all(point["payload"]["visible"] for point in stored.values())


async def test_row_31_after_the_drain_time_streams_end_with_an_error_and_a_document_being_written_is_finished(
    tmp_path: Path, faulty: FaultBackend, vector_url: str, collection: str, session: aiohttp.ClientSession
) -> None:
    events, begun = fault.sse(fault.TOKENS), list[int]()
    faulty.on(CHAT, fault.stream(events[:1], "hang"))
    async with gate(vector_url, lambda method, path, _: method != "GET" and "/points/batch" in path) as store:
        services = backends(faulty.url, store.url, concurrency=OF_EACH)
        settings = {"default_collection": collection}
        async with serving(tmp_path, backends=services, rag=settings, server={"drain_s": 0.3}) as served:
            document = {"documents": [{"id": "d", "text": "One is a number."}]}
            ingest = asyncio.create_task(_post(session, served.url + "/rag/ingest", document))
            streams = [asyncio.create_task(_stream(session, served, begun)) for _ in range(OF_EACH)]
            await eventually(lambda: len(begun) == OF_EACH, "the streams")
            await store.reached.wait()
            served.stop()
            for stream in streams:
                text = await stream
                assert text.startswith(events[0])
                assert b'"code":"draining"' in text
                assert b"[DONE]" not in text
            assert served.told("what is under way is cut off") == 1
            async with session.get(served.url + "/metrics") as response:
                assert f"\nhartonomous_cut_off_requests_total {OF_EACH + 1}.0\n" in await response.text()
            assert not ingest.done()
            store.open()
            status, answer = await ingest
            assert (status, answer["counts"]["created"]) == (200, 1)
            assert await served.exit_code() == 0
            assert not [line for line in served.lines if line["level"] == "ERROR"]
    stored = await Points(vector_url).all(collection)
    assert [point["payload"]["visible"] for point in stored.values()] == [True]


async def test_row_31_with_a_notice_work_is_taken_while_the_server_says_that_it_is_not_ready(
    tmp_path: Path, faulty: FaultBackend, session: aiohttp.ClientSession
) -> None:
    faulty.on(CHAT, fault.reply(200, b'{"whole": true}'))
    async with serving(tmp_path, backends=backends(faulty.url), server={"notice_s": 1.0}) as served:
        served.stop()
        await eventually(lambda: served.told("draining"), "the notice")
        async with session.get(served.url + "/ready") as response:
            assert "the server is shutting down" in (await response.json())["reasons"]
        async with session.post(served.url + CHAT, json={"messages": []}) as response:
            assert (response.status, response.headers["Connection"]) == (200, "close")
        assert await served.exit_code() == 0


async def test_row_31_a_slow_reader_has_its_answer_although_the_server_has_nothing_else_to_do(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    """What stands in the server's buffers when the answer is done would be lost with its process."""
    large = json.dumps({"text": "x" * 6_000_000}).encode()
    faulty.on(CHAT, fault.reply(200, large))
    async with serving(tmp_path, backends=backends(faulty.url)) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
        body = b'{"messages": []}'
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        writer.write(head.encode() + b"\r\n\r\n" + body)
        await reader.readuntil(b"\r\n\r\n")
        served.stop()
        await eventually(lambda: served.told("draining"), "the drain")
        await asyncio.sleep(1.0)  # it has long been ready to go
        text = await reader.readexactly(len(large))
        assert text == large
        assert await served.exit_code() == 0
        writer.close()
