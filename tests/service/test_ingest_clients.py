"""Every kind of client of a streamed ingest is served, and none holds the server up: in whatever order they read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hartonomous.handlers import spool as spool_module
from tests.service.application import WAIT_S, ConfigMaker, RunningApp, eventually, running
from tests.service.fault_backend import FaultBackend, after, hang
from tests.service.ndjson import NDJSON, PATH, Raw, line, nobody_is_served, parsed, settled, stored
from tests.service.rag import EMBEDDINGS, Rig, RigMaker, ingest, passed_on, sample

# A bad line costs no embedding. So many of them are more than the buffers of small sockets hold, as are their answers.
BAD = b'{"colour": "%b"}\n' % (b"x" * 1_000)
FULL = BAD * 1_000
MANY = 10
BUFFER_BYTES = 65_536


async def test_a_client_that_waits_for_each_answer_is_answered_at_once(api: RunningApp) -> None:
    answered: asyncio.Queue[None] = asyncio.Queue()

    async def lines() -> AsyncIterator[bytes]:
        for number in range(20):
            yield line(str(number), f"Number {number}.")
            await answered.get()

    results: list[Any] = []
    async with api.session.post(api.url + PATH, data=lines(), headers=NDJSON) as response:
        while len(results) < 20:
            results.append(json.loads(await asyncio.wait_for(response.content.readline(), 10)))
            answered.put_nowait(None)
        last = json.loads(await response.content.readline())
    assert [one["line"] for one in results] == list(range(1, 21))
    assert last["counts"]["created"] == 20


async def test_the_answer_begins_before_the_first_line(api: RunningApp) -> None:
    async with Raw.opened(api) as client:
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        await client.send(line("a"))
        assert json.loads(await client.chunk())["status"] == "created"
        await client.end()
        assert json.loads(await client.chunk())["counts"]["created"] == 1
        assert await client.chunk() == b""
        client.leave()


@pytest.fixture
async def tight(make_config: ConfigMaker) -> AsyncIterator[RunningApp]:
    """The application on sockets that hold little."""
    config = make_config()
    async with running(config, buffer_bytes=BUFFER_BYTES) as app:
        yield app
        await app.delete(f"/rag/collections/{config.rag.default_collection}")


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what goes to the temporary files of spools."""
    sizes: list[int] = []
    real = spool_module._write_ring

    def write(file: Any, data: bytes, *place: int) -> None:
        sizes.append(len(data))
        real(file, data, *place)

    monkeypatch.setattr(spool_module, "_write_ring", write)
    return sizes


async def test_a_client_that_reads_only_after_it_has_sent_everything(tight: RunningApp, moved: list[int]) -> None:
    async with Raw.opened(tight) as client:
        for _ in range(MANY):
            await client.send(FULL)
        await client.send(line("last"))
        await client.end()
        results, last = parsed(tight, await client.answer())
        assert [one["line"] for one in results] == list(range(1, MANY * 1_000 + 2))
        assert last["counts"] == {"created": 1, "updated": 0, "unchanged": 0, "failed": MANY * 1_000}
        assert sum(moved) > 1_000_000


@pytest.mark.parametrize("limit", [0, 100_000, 1_000_000])
async def test_a_full_spool_holds_up_reading_until_the_client_reads(
    make_config: ConfigMaker, limit: int, moved: list[int]
) -> None:
    config = make_config(server={"max_spool_bytes": limit})
    async with running(config, buffer_bytes=BUFFER_BYTES) as app, Raw.opened(app) as client:

        async def write() -> None:
            for _ in range(MANY):
                await client.send(FULL)
            await client.end()

        writing = asyncio.create_task(write())
        taken = await settled(lambda: sample(app, "hartonomous_ingested_documents_total", status="failed"))
        assert taken < MANY * 1_000
        assert not writing.done()
        results, last = parsed(app, await client.answer())
        await writing
        assert last["counts"]["failed"] == len(results) == MANY * 1_000
        assert bool(moved) == bool(limit)


async def test_a_client_that_neither_reads_nor_can_send_is_cut_off(make_config: ConfigMaker) -> None:
    config = make_config(server={"max_spool_bytes": 100_000, "write_timeout_s": 0.3})
    async with running(config, buffer_bytes=BUFFER_BYTES) as app, Raw.opened(app) as client:
        with pytest.raises(ConnectionError):
            await client.send(FULL * MANY * 10)
        await eventually(lambda: nobody_is_served(app), "the end of the request")


async def test_a_client_that_has_sent_everything_and_does_not_read_is_cut_off(make_config: ConfigMaker) -> None:
    config = make_config(server={"write_timeout_s": 0.3})
    async with running(config, buffer_bytes=BUFFER_BYTES) as app, Raw.opened(app) as client:
        for _ in range(MANY):
            await client.send(FULL)
        await client.end()
        await eventually(lambda: nobody_is_served(app), "the end of the request")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.answer()
        client.leave()


async def test_not_reading_is_no_reason_to_be_cut_off_while_sending(make_config: ConfigMaker) -> None:
    config = make_config(server={"write_timeout_s": 2.0})
    async with running(config, buffer_bytes=BUFFER_BYTES) as app, Raw.opened(app) as client:
        for _ in range(MANY):
            await client.send(FULL)
        for _ in range(6):
            await client.send(BAD)
            await asyncio.sleep(0.5)
        await client.end()
        results, _ = parsed(app, await client.answer())
        assert len(results) == MANY * 1_000 + 6


async def test_a_slow_service_is_no_fault_of_a_client_that_does_not_read(
    make_config: ConfigMaker, embedding_url: str
) -> None:
    """Nothing can be sent while the server reads nothing, so no time of the client's runs."""
    gate = asyncio.Event()
    async with FaultBackend(upstream=embedding_url) as embedding:
        backend = {"urls": (embedding.url,), "batch_size": 8, "concurrency": 1}
        config = make_config(server={"write_timeout_s": 2.0}, backends={"embedding": backend})
        async with running(config, buffer_bytes=BUFFER_BYTES) as app, Raw.opened(app) as client:
            await ingest(app, {"id": "first", "text": "Limes."})
            embedding.on(EMBEDDINGS, after(passed_on(embedding_url), gate))

            async def write() -> None:
                for _ in range(MANY):
                    await client.send(FULL)
                for number in range(2_000):
                    await client.send(line(f"{number % 40}", metadata={"blob": "x" * 16_000}))
                await client.end()

            writing = asyncio.create_task(write())
            await eventually(lambda: bool(embedding.calls(EMBEDDINGS)[1:]), "the service is asked")
            await asyncio.sleep(3.0)
            assert not writing.done()
            gate.set()
            results, last = parsed(app, await client.answer())
            await writing
            assert len(results) == MANY * 1_000 + 2_000
            assert last["counts"]["failed"] == MANY * 1_000
            await app.delete(f"/rag/collections/{config.rag.default_collection}")


# Clients that leave.


async def test_what_was_answered_stays_when_the_client_leaves(rig: Rig, embedding_url: str) -> None:
    before = asyncio.all_tasks()
    async with Raw.opened(rig.app) as client:
        await client.head()
        await client.send(line("a"))
        assert json.loads(await client.chunk())["status"] == "created"
        rig.embedding.on(EMBEDDINGS, hang())
        await client.send(line("b", "Another text."))
        await eventually(lambda: bool(rig.embedding.calls(EMBEDDINGS)[1:]), "the service is asked")
        client.leave()
        await asyncio.wait_for(rig.embedding.calls(EMBEDDINGS)[1].closed.wait(), WAIT_S)
        await eventually(lambda: nobody_is_served(rig.app), "the end of the request")
        assert (await stored(rig.app, "a"))["text"] == "Limes are sour."
        assert await stored(rig.app, "b") == 404
        await eventually(lambda: _work(before) == [], "the end of all tasks")


def _work(before: set[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    """Return the tasks that handlers have left behind."""
    return [task for task in asyncio.all_tasks() - before if "handlers" in repr(task) or "pipelines" in repr(task)]


async def test_a_client_that_leaves_while_nothing_is_read_is_noticed(rigs: RigMaker) -> None:
    async with rigs.make(backends={"embedding": {"batch_size": 4, "concurrency": 1}}) as rig:
        await ingest(rig.app, {"id": "first", "text": "Limes."})
        rig.embedding.on(EMBEDDINGS, hang())
        async with Raw.opened(rig.app) as client:
            for number in range(160):
                await client.send(line(f"{number}", "Some text. " * 400))
            await eventually(lambda: bool(rig.embedding.calls(EMBEDDINGS)[1:]), "the service is asked")
            await eventually(lambda: not client.writer.transport.get_write_buffer_size(), "all of it is sent")
        await asyncio.wait_for(rig.embedding.calls(EMBEDDINGS)[1].closed.wait(), WAIT_S)
        await eventually(lambda: nobody_is_served(rig.app), "the end of the request")
        left = {"method": "POST", "route": PATH, "status": "499"}
        assert sample(rig.app, "hartonomous_http_requests_total", **left) == 1


async def test_row_34_a_document_that_is_being_written_is_finished_when_the_client_leaves(
    rig: Rig, vector_url: str
) -> None:
    await ingest(rig.app, {"id": "a", "text": "An old text."})
    gate = asyncio.Event()
    batch = f"/collections/{rig.config.rag.default_collection}/points/batch"
    rig.qdrant.requests.clear()
    rig.qdrant.on(batch, after(passed_on(vector_url), gate))
    async with Raw.opened(rig.app) as client:
        await client.send(line("a", "A new text."))
        await eventually(lambda: bool(rig.qdrant.calls(batch)), "the write")
        client.leave()
        await eventually(lambda: nobody_is_served(rig.app), "the end of the request")
        gate.set()
        await eventually(lambda: rig.app.runtime.ingestor.jobs.active_count == 0, "the end of the job")
        assert (await stored(rig.app, "a"))["text"] == "A new text."


# Clients that are slow.


async def test_a_client_that_waits_for_an_answer_is_not_idle(rigs: RigMaker, embedding_url: str) -> None:
    gate = asyncio.Event()
    async with rigs.make(server={"body_timeout_s": 0.2}) as rig:
        await ingest(rig.app, {"id": "first", "text": "Limes."})
        rig.embedding.on(EMBEDDINGS, after(passed_on(embedding_url), gate))
        async with Raw.opened(rig.app) as client:
            await client.send(line("a"))
            await asyncio.sleep(1.0)
            gate.set()
            await client.head()
            assert json.loads(await client.chunk())["status"] == "created"
            await client.send(line("b"))
            assert json.loads(await client.chunk())["id"] == "b"
            client.leave()
