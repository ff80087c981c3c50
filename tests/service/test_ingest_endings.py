"""A streamed ingest that does not end well: a status before the first line, later on a last line that says why."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hartonomous.handlers import ingest_stream as module
from hartonomous.keys import STATE
from tests.service.application import ConfigMaker, RunningApp, eventually, running
from tests.service.fault_backend import after, hang
from tests.service.ndjson import NDJSON, PATH, Raw, line, nobody_is_served, parsed, refused
from tests.service.rag import EMBEDDINGS, Rig, RigMaker, ingest, passed_on

BAD = b'{"colour": "red"}\n'


# Before the first line.


async def test_another_embedding_model_is_a_409(rigs: RigMaker) -> None:
    async with rigs.make() as rig:
        await ingest(rig.app, {"id": "a", "text": "Limes."})
    async with rigs.make(backends={"embedding": {"model": "another-model"}}) as rig:
        status, error = await refused(rig.app, line("a"))
        assert (status, error["type"], error["param"]) == (409, "conflict_error", "collection")


@pytest.mark.parametrize("backend", ["embedding", "qdrant"])
async def test_a_backend_that_is_down_is_a_503(rig: Rig, backend: str) -> None:
    await getattr(rig, backend).stop()
    status, error = await refused(rig.app, line("a"))
    assert (status, error["type"]) == (503, "backend_unavailable")


@pytest.mark.parametrize("value", ["", "0", "x"])
async def test_a_malformed_timeout_is_a_400(api: RunningApp, value: str) -> None:
    status, error = await refused(api, line("a"), **{"X-Request-Timeout-Ms": value})
    assert (status, error["param"]) == (400, "X-Request-Timeout-Ms")


async def _endless() -> AsyncIterator[bytes]:
    """A body of 64 MB, which is more than all buffers on the way hold."""
    for _ in range(1_000):
        yield b"%b\n" % (b"x" * 65_535)


async def test_a_client_in_the_middle_of_a_large_body_can_read_the_refusal(api: RunningApp, tmp_path: Path) -> None:
    path = f"{PATH}?max_tokens=1"
    status, error = await refused(api, _endless(), path)
    assert (status, error["param"]) == (422, "max_tokens")
    # A client that reads when it has sent everything, and not before.
    whole = b"".join([piece async for piece in _endless()])
    answer = await asyncio.to_thread(_blocking, api, path, whole)
    assert b'"param":"max_tokens"' in answer


def _blocking(app: RunningApp, path: str, body: bytes) -> bytes:
    """POST as the simplest of clients do: send all, then read."""
    with socket.create_connection(("127.0.0.1", urlsplit(app.url).port or 0), timeout=20) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n"
        connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        answer = b""
        while data := connection.recv(65_536):
            answer += data
        return answer


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_curl_can_read_a_refusal_and_a_last_line(api: RunningApp, tmp_path: Path) -> None:
    large = tmp_path / "large.ndjson"
    large.write_bytes(b"".join([piece async for piece in _endless()]))

    async def curl(*arguments: str) -> list[str]:
        command = ("curl", "-sS", "--max-time", "30", "-H", f"Content-Type: {NDJSON['Content-Type']}", *arguments)
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
        out, err = await process.communicate()
        assert process.returncode == 0, err
        return out.decode().splitlines()

    (refusal,) = await curl("-T", str(large), "-X", "POST", f"{api.url}{PATH}?max_tokens=1")
    assert json.loads(refusal)["error"]["param"] == "max_tokens"
    results = await curl("-T", str(large), "-X", "POST", "-H", "Expect: 100-continue", api.url + PATH)
    assert json.loads(results[-1])["counts"]["failed"] == len(results) - 1 == 1_000
    results = await curl("--data-binary", line("a").decode(), api.url + PATH)
    assert json.loads(results[-1])["counts"]["created"] == 1


async def test_a_client_that_waits_for_a_100_gets_it(api: RunningApp) -> None:
    data = line("a")
    headers = ("Expect: 100-continue", f"Content-Length: {len(data)}")
    async with Raw.opened(api, *headers, chunked=False) as client:
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n"
        client.writer.write(data)
        results, _ = parsed(api, await client.answer())
        assert [one["id"] for one in results] == ["a"]


# After the first line.


async def test_a_store_that_goes_away_is_the_last_line_and_the_rest_is_not_waited_for(rig: Rig) -> None:
    async with Raw.opened(rig.app) as client:
        await client.send(line("first"))
        await client.head()
        assert json.loads(await client.chunk())["status"] == "created"
        await rig.qdrant.stop()
        for number in range(200):
            await client.send(line(f"{number}", f"Number {number}."))
        received = b""
        while piece := await client.chunk():
            received += piece
        *failed, last = [json.loads(one) for one in received.splitlines()]
        assert {one["error"]["type"] for one in failed} == {"backend_unavailable"}
        assert last["error"]["type"] == "backend_unavailable"
        assert last["counts"] == {"created": 1, "updated": 0, "unchanged": 0, "failed": len(failed)}
        assert len(failed) < 200


async def test_a_client_that_sends_nothing_gets_a_408_as_its_last_line(rigs: RigMaker) -> None:
    async with rigs.make(server={"body_timeout_s": 0.2}) as rig, Raw.opened(rig.app) as client:
        await client.send(line("a") + b'{"id": "b", ')
        results, last = parsed(rig.app, await client.answer())
        assert [one["id"] for one in results] == ["a"]
        assert (last["error"]["type"], last["error"]["code"]) == ("timeout_error", "request_timeout")
        assert last["counts"]["created"] == 1


async def test_the_callers_deadline_is_of_the_whole_stream(api: RunningApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.05)
    async with Raw.opened(api, "X-Request-Timeout-Ms: 1500") as client:
        await client.send(line("a"))
        results, last = parsed(api, await client.answer())
        assert [one["status"] for one in results] == ["created"]
        assert (last["error"]["type"], last["error"]["code"]) == ("timeout_error", "deadline_exceeded")


async def test_the_servers_limit_is_of_each_document(rigs: RigMaker, embedding_url: str) -> None:
    limit_s = 1.5
    async with rigs.make() as rig:
        await ingest(rig.app, {"id": "first", "text": "Limes."})
    async with rigs.make(server={"request_timeout_s": limit_s}) as rig:
        await ingest(rig.app, {"id": "first", "text": "Lemons."})
        rig.embedding.on(EMBEDDINGS, hang(), passed_on(embedding_url))
        async with Raw.opened(rig.app) as client:
            began = time.monotonic()
            await client.head()
            await client.send(line("a"))
            assert json.loads(await client.chunk())["error"]["type"] == "timeout_error"
            assert time.monotonic() - began >= limit_s
            await client.send(line("b"))
            assert json.loads(await client.chunk())["status"] == "created"
            await client.end()
            assert json.loads(await client.chunk())["counts"]["created"] == 1


@pytest.mark.parametrize("broken", [b"zz\r\n", b"5\r\nabcdefgh\r\n"])
async def test_broken_framing_ends_a_stream(rigs: RigMaker, broken: bytes) -> None:
    """The HTTP parser does not tell the body of it, so it is as if nothing came any more."""
    async with rigs.make(server={"body_timeout_s": 0.3}) as rig, Raw.opened(rig.app) as client:
        await client.send(line("a"))
        await client.head()
        first = await client.chunk()
        client.writer.write(broken)
        results, last = parsed(rig.app, first + await client.chunk())
        assert [one["id"] for one in results] == ["a"]
        assert last["error"]["code"] in {"bad_framing", "request_timeout"}
        await eventually(lambda: nobody_is_served(rig.app), "the end of the request")


# A server that is to stop.


async def test_a_waiting_stream_ends_when_the_server_drains(api: RunningApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.05)
    async with Raw.opened(api) as client:
        await client.send(line("a"))
        await client.head()
        first = await client.chunk()
        api.app[STATE].draining = True
        last_line = await asyncio.wait_for(client.chunk(), api.runtime.config.server.drain_s / 4)
        results, last = parsed(api, first + last_line)
        assert [one["status"] for one in results] == ["created"]
        assert (last["error"]["type"], last["error"]["code"]) == ("backend_unavailable", "draining")
        await eventually(lambda: nobody_is_served(api), "the end of the request")


async def test_a_stream_that_flows_may_end_during_a_drain(api: RunningApp) -> None:
    async with Raw.opened(api) as client:
        await client.send(line("a"))
        await client.head()
        first = await client.chunk()
        api.app[STATE].draining = True
        await client.send(line("b"))
        second = await client.chunk()
        await client.end()
        results, last = parsed(api, first + second + await client.chunk())
        assert len(results) == last["counts"]["created"] == 2


async def test_a_stream_that_flows_for_ever_ends_in_time_and_loses_nothing(make_config: ConfigMaker) -> None:
    config = make_config(server={"drain_s": 1.0})
    async with running(config) as app:

        async def lines() -> AsyncIterator[bytes]:
            for number in range(1_000_000):
                yield BAD * 10 + line(f"{number % 10}", f"Number {number}.")
                await asyncio.sleep(0.01)
                if number == 20:
                    app.app[STATE].draining = True

        async with app.session.post(app.url + PATH, data=lines(), headers=NDJSON) as response:
            results, last = parsed(app, await asyncio.wait_for(response.read(), 10))
        assert last["error"]["code"] == "draining"
        assert [one["line"] for one in results] == list(range(1, len(results) + 1))
        assert last["counts"]["failed"] >= 200
        await eventually(lambda: nobody_is_served(app), "the end of the request")


async def test_what_is_under_way_is_finished_before_a_stream_ends(
    rig: Rig, embedding_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.05)
    await ingest(rig.app, {"id": "first", "text": "Limes."})
    gate = asyncio.Event()
    rig.embedding.on(EMBEDDINGS, after(passed_on(embedding_url), gate))
    async with Raw.opened(rig.app) as client:
        await client.send(line("a", "Lemons."))
        await eventually(lambda: bool(rig.embedding.calls(EMBEDDINGS)[1:]), "the service is asked")
        rig.app.app[STATE].draining = True
        await asyncio.sleep(0.3)
        gate.set()
        results, last = parsed(rig.app, await client.answer())
        assert [one["status"] for one in results] == ["created"]
        assert last["error"]["code"] == "draining"
    assert (await rig.app.get("/health"))[0] == 200
