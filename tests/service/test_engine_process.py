"""The engine as a process: who owns the folder, ports, signals, a full volume, clients that leave."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hartonomous.engine.state import Activity
from tests.service.application import ConfigMaker, RunningApp, running
from tests.service.rag import ingest
from tests.service.vector_store import Engine

SPARE_MB = 1_024  # how much the volume is filled with; others may write half of that meanwhile
CREATE = {"vectors": {"size": 4, "distance": "Dot"}}


def run_engine(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hartonomous", "engine", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


@pytest.fixture
async def session(engine: Engine) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(engine.url) as session:
        yield session


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    with Engine(tmp_path / "data") as engine:
        yield engine


async def send(session: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    async with session.request(method, path, json=body) as response:
        return response.status, await response.json()


async def test_a_folder_that_another_process_owns_is_refused(engine: Engine) -> None:
    ended = run_engine("--data", str(engine.data), "--listen", "127.0.0.1:0")
    assert ended.returncode == 1
    assert ended.stderr.strip() == f"The data folder {engine.data} belongs to a running process."


async def test_a_port_in_use_is_one_clear_sentence(engine: Engine, tmp_path: Path) -> None:
    ended = run_engine("--data", str(tmp_path / "other"), "--listen", f"127.0.0.1:{engine.port}")
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert last == f"Cannot listen on 127.0.0.1:{engine.port}: Address already in use."


def test_a_socket_in_use_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        ended = run_engine("--data", str(tmp_path / "data"), "--listen", f"unix:{path}")
    assert ended.returncode == 1
    assert f"Cannot listen on unix:{path}: another process listens there." in ended.stderr


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    ended = run_engine("--data", str(tmp_path), "--listen", "nowhere")
    assert ended.returncode == 1
    assert "'nowhere' is not an address" in ended.stderr


def test_a_folder_that_cannot_be_opened_is_one_clear_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "collections" / "x"
    folder.mkdir(parents=True)
    (folder / "collection.json").write_text("not JSON")
    ended = run_engine("--data", str(tmp_path), "--listen", "127.0.0.1:0")
    assert ended.returncode == 1
    assert ended.stderr.strip().startswith(f"The data folder {tmp_path} cannot be opened:")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_with_0_and_all_is_kept(tmp_path: Path, number: signal.Signals) -> None:
    engine = Engine(tmp_path)
    engine.start()
    async with aiohttp.ClientSession(engine.url) as session:
        await send(session, "PUT", "/collections/c", CREATE)
        points = {"points": [{"id": 1, "vector": [1, 2, 3, 4]}]}
        assert (await send(session, "PUT", "/collections/c/points", points))[0] == 200
    assert engine.process is not None
    engine.process.send_signal(number)
    assert engine.process.wait(timeout=30) == 0
    with Engine(tmp_path) as again:
        async with aiohttp.ClientSession(again.url) as session:
            assert (await send(session, "POST", "/collections/c/points/count", {}))[1]["result"] == {"count": 1}


async def test_it_listens_on_a_unix_socket_and_says_where(tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    command = [sys.executable, "-m", "hartonomous", "engine", "--data", str(tmp_path / "data")]
    process = await asyncio.create_subprocess_exec(*command, "--listen", f"unix:{path}", stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    line = json.loads(await process.stderr.readline())
    assert (line["message"], line["address"]) == ("vector engine listening", f"unix:{path}")
    connector = aiohttp.UnixConnector(str(path))
    async with aiohttp.ClientSession(connector=connector) as session, session.get("http://e/readyz") as response:
        assert response.status == 200
    process.terminate()
    assert await process.wait() == 0


async def test_port_0_is_answered_with_the_real_port(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hartonomous", "engine", "--data", str(tmp_path / "data")]
    process = await asyncio.create_subprocess_exec(*command, "--listen", "127.0.0.1:0", stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    address = json.loads(await process.stderr.readline())["address"]
    async with aiohttp.ClientSession(address) as session, session.get("/readyz") as response:
        assert response.status == 200
    process.terminate()
    assert await process.wait() == 0


async def test_row_30_a_full_volume_refuses_writes_before_they_begin_and_reads_go_on(tmp_path: Path) -> None:
    with Engine(tmp_path) as engine:
        async with aiohttp.ClientSession(engine.url) as session:
            await send(session, "PUT", "/collections/c", CREATE)
            points = {"points": [{"id": 1, "vector": [1, 2, 3, 4]}]}
            await send(session, "PUT", "/collections/c/points", points)
    with Engine(tmp_path, "--reserve-mb", str(2**40)) as engine:
        async with aiohttp.ClientSession(engine.url) as session:
            more = {"points": [{"id": 2, "vector": [1, 2, 3, 4]}]}
            status, answer = await send(session, "PUT", "/collections/c/points", more)
            assert status == 507
            assert "No space left on device" in answer["status"]["error"]
            assert (await send(session, "PUT", "/collections/d", CREATE))[0] == 507
            found = await send(session, "POST", "/collections/c/points/query", {"query": [1, 1, 1, 1]})
            assert [hit["id"] for hit in found[1]["result"]["points"]] == [1]


async def test_row_30_after_space_is_made_writes_go_on_without_a_restart(
    make_config: ConfigMaker, collection_name: str, tmp_path: Path
) -> None:
    data, ballast = tmp_path / "data", tmp_path / "ballast"
    with Engine(data) as engine, ballast.open("wb") as file:
        config = make_config(backends={"qdrant": {"url": engine.url}})
        async with running(config) as app:
            await ingest(app, {"id": "old", "text": "Limes are sour."})
        os.posix_fallocate(file.fileno(), 0, 2 * SPARE_MB << 20)
    reserve_mb = (shutil.disk_usage(tmp_path).free >> 20) + SPARE_MB
    with Engine(data, "--reserve-mb", str(reserve_mb)) as engine:  # it is started on a volume that is full
        async with running(make_config(backends={"qdrant": {"url": engine.url}})) as app:
            new = {"documents": [{"id": "new", "text": "Lemons are sour."}]}
            status, answer = await app.post("/rag/ingest", new)
            assert (status, answer["counts"]["created"]) == (507, 0)
            assert await found(app) == ["old"]
            assert (await app.get(f"/rag/collections/{collection_name}/documents/new"))[0] == 404
            full = 'hartonomous_http_requests_total{method="POST",route="/rag/ingest",status="507"}'
            assert await app.metric(full) == 1
            ballast.unlink()
            assert (await app.post("/rag/ingest", new))[0] == 200
            assert sorted(await found(app)) == ["new", "old"]


async def found(app: RunningApp) -> list[str]:
    status, answer = await app.post("/rag/search", {"query": "sour", "rerank": False})
    assert status == 200
    return [hit["document_id"] for hit in answer["results"]]


async def test_a_write_whose_client_leaves_is_finished(engine: Engine, session: aiohttp.ClientSession) -> None:
    await send(session, "PUT", "/collections/c", CREATE)
    points = [{"id": n, "vector": [1, 2, 3, 4], "payload": {"t": "x" * 200}} for n in range(20_000)]
    body = json.dumps({"points": points}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", engine.port)
    head = (
        "PUT /collections/c/points HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
    writer.close()
    async with asyncio.timeout(30):
        while (await send(session, "POST", "/collections/c/points/count", {}))[1]["result"]["count"] < 20_000:
            pass


async def test_activity_finishes_a_write_that_is_cancelled_and_is_not_idle_meanwhile() -> None:
    activity = Activity()
    go_on, done = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        await go_on.wait()
        done.set()

    request = asyncio.create_task(activity.finish(write()))
    await asyncio.sleep(0)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert activity.idle_s == 0
    go_on.set()
    await activity.settled()
    assert done.is_set()
    assert activity.idle_s > 0


async def test_readyz_answers_while_a_large_write_is_applied(engine: Engine, session: aiohttp.ClientSession) -> None:
    await send(session, "PUT", "/collections/c", {"vectors": {"size": 128, "distance": "Dot"}})
    vector = [0.5] * 128
    body = json.dumps({"points": [{"id": n, "vector": vector} for n in range(10_000)]}).encode()

    async def put() -> int:
        headers = {"Content-Type": "application/json"}
        path = "/collections/c/points"
        async with session.put(path, data=io.BytesIO(body), headers=headers) as response:
            return response.status

    write = asyncio.create_task(put())
    answered = 0
    while not write.done():
        async with session.get("/readyz") as response:
            assert response.status == 200
        answered += 1
    assert await write == 200
    assert answered >= 10


async def test_a_batch_is_one_step_for_every_reader(engine: Engine, session: aiohttp.ClientSession) -> None:
    await send(session, "PUT", "/collections/c", CREATE)
    body = {"points": [{"id": 0, "vector": [1, 2, 3, 4]}]}
    await send(session, "PUT", "/collections/c/points", body)
    seen: set[int] = set()

    async def read_on(writing: asyncio.Task[None]) -> None:
        while not writing.done():
            _, answer = await send(session, "POST", "/collections/c/points/count", {})
            seen.add(answer["result"]["count"])

    async def replace() -> None:
        for number in range(30):
            points = [{"id": number + 1, "vector": [1, 2, 3, 4]}]
            operations = [{"delete": {"points": [number]}}, {"upsert": {"points": points}}]
            assert (await send(session, "POST", "/collections/c/points/batch", {"operations": operations}))[0] == 200

    writing = asyncio.create_task(replace())
    await asyncio.gather(read_on(writing), read_on(writing), writing)
    assert seen == {1}
