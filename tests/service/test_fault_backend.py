"""The fault backend does what its behaviours say."""

from __future__ import annotations

import asyncio
import gc
import socket
from contextlib import suppress

import aiohttp
import pytest
from yarl import URL

from tests.service import fault_backend as fault
from tests.service.application import WAIT_S, ConfigMaker, eventually, running
from tests.service.fault_backend import DEFAULT, FaultBackend


async def _post(backend: FaultBackend, path: str = "/x", timeout_s: float = 20.0) -> tuple[int, bytes]:
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.post(backend.url + path, data=b"[1]") as got:
        return got.status, await got.read()


async def test_behaviours_are_taken_in_turn_and_the_last_one_stays(faulty: FaultBackend) -> None:
    faulty.on("/x", fault.reply(500, b"no"), fault.reply(201, b"yes"))
    assert [await _post(faulty) for _ in range(3)] == [(500, b"no"), (201, b"yes"), (201, b"yes")]
    assert [(call.method, call.body) for call in faulty.calls("/x")] == [("POST", b"[1]")] * 3


@pytest.mark.parametrize(
    "behaviour",
    [
        fault.reset(),
        fault.close(),
        fault.cut(b"0123456789", 4),
        fault.cut(b"0123456789", 4, "clean"),
        fault.stream([b"a"], "reset"),
        fault.stream([b"a"], "clean"),
        fault.raw(b"nonsense\r\n\r\n"),
    ],
)
async def test_a_broken_connection_reaches_the_client_as_one(faulty: FaultBackend, behaviour: fault.Behaviour) -> None:
    faulty.on("/x", behaviour)
    with pytest.raises(aiohttp.ClientError):
        await _post(faulty)


@pytest.mark.parametrize("behaviour", [fault.hang(), fault.stream([b"a"], "hang"), fault.drip(b"x" * 9, 60)])
async def test_a_peer_that_leaves_is_noticed(faulty: FaultBackend, behaviour: fault.Behaviour) -> None:
    faulty.on("/x", behaviour)
    with pytest.raises(TimeoutError):
        await _post(faulty, timeout_s=0.1)
    async with asyncio.timeout(WAIT_S):
        await faulty.calls("/x")[0].closed.wait()


async def test_a_stopped_backend_refuses_and_comes_back_on_its_port(faulty: FaultBackend) -> None:
    await faulty.stop()
    with pytest.raises(aiohttp.ClientConnectorError):
        await _post(faulty)
    await faulty.start()
    assert (await _post(faulty))[0] == 404


@pytest.mark.parametrize("rounds", range(6))
async def test_whoever_is_taken_in_the_moment_of_the_stop_is_ended_as_well(rounds: int) -> None:
    """Whatever the loop is about to do with the connection; a transport left over would fail the test itself."""
    async with FaultBackend() as backend:
        with socket.create_connection(("127.0.0.1", URL(backend.url).port or 0), timeout=20) as client:
            for _ in range(rounds):
                await asyncio.sleep(0)
            await backend.stop()
            assert backend.open_connections == 0
            with suppress(ConnectionResetError):
                assert await asyncio.to_thread(client.recv, 1) == b""
    gc.collect()


async def test_it_stands_for_all_three_services_and_passes_on_to_a_real_store(
    faulty: FaultBackend, make_config: ConfigMaker, vector_url: str
) -> None:
    models = {name: {"urls": (faulty.url,)} for name in ("embedding", "reranking", "generative")}
    async with FaultBackend(vector_url) as store:
        config = make_config(backends=models | {"qdrant": {"url": store.url}})
        async with running(config) as app:
            await eventually(lambda: not app.runtime.monitor.missing(), "every backend up")
            status, answer = await app.post("/rag/ingest", {"documents": [{"id": "a", "text": "The answer is 42."}]})
            assert (status, answer["counts"]["created"]) == (200, 1)
            faulty.on("/v1/embeddings", fault.reply(500), DEFAULT)
            status, answer = await app.post("/rag/query", {"query": "the answer"})
            assert (status, answer["answer"]) == (200, "The answer is 42 [1].")
            await app.delete(f"/rag/collections/{config.rag.default_collection}")
