"""As long as both processes of an upgrade live: kept answers, and a stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.service import fault_backend as fault
from tests.service.application import ConfigMaker, eventually
from tests.service.fault_backend import FaultBackend
from tests.service.managed import Manager, is_alive, managing
from tests.service.rag import CHAT, says
from tests.service.serving import Served, backends
from tests.service.sockets import Client, connected, get, post
from tests.service.test_upgrade import QUICK, held, upgraded
from tests.service.vector_store import drop_collection

EVENTS = fault.sse(fault.TOKENS)
ASKED = post(CHAT, b'{"messages": [], "stream": true}')
LIME = post("/rag/query", json.dumps({"query": "What does a lime weigh?", "rerank": False}).encode())


async def test_a_stop_of_the_new_process_lets_the_old_one_finish_what_is_under_way(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    released = asyncio.Event()
    faulty.on(CHAT, held(EVENTS, released))
    server = {"drain_s": 100.0}
    async with managing(tmp_path, backends=backends(faulty.url), health=QUICK, server=server) as manager:
        served = await manager.start()
        await manager.ready()
        async with connected(served.port) as idle:
            assert (await idle.ask(get("/health")))[0] == 200
            async with connected(served.port) as stream:
                await _begin(stream)
                new = await upgraded(manager)
                os.kill(new, signal.SIGTERM)
                await eventually(lambda: served.told("the process before still has work"), "the stop")
                assert manager.has_told("STOPPING") == 1
                assert is_alive(new)
                assert served.process.returncode is None
                released.set()
                await stream.reader.readuntil(EVENTS[-1])
            # Nobody serves after it: who is only connected is not waited for.
            assert await served.exit_code() == 0
        await manager.ended(new)
        assert manager.unheard == []


async def test_a_stop_waits_for_the_process_before_no_longer_than_that_one_may_take(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    """It does not hang on a process that does."""
    faulty.on(CHAT, held(EVENTS, asyncio.Event()))
    server, services = {"drain_s": 1.0}, backends(faulty.url)
    services["qdrant"]["timeout_s"] = 0.1
    async with managing(tmp_path, backends=services, health=QUICK, server=server) as manager:
        served = await manager.start()
        await manager.ready()
        async with connected(served.port) as stream:
            await _begin(stream)
            new = await upgraded(manager)
            served.process.send_signal(signal.SIGSTOP)
            os.kill(new, signal.SIGTERM)
            await manager.ended(new)
            assert served.process.returncode is None


async def test_no_answer_from_memory_is_given_until_the_old_process_has_ended(
    tmp_path: Path, make_config: ConfigMaker, generative_url: str, vector_url: str, collection_name: str
) -> None:
    """A document that is changed through the one process is not old to who asks the other one."""
    async with FaultBackend(upstream=generative_url) as model:
        models = {"generative": {"urls": (model.url,)}}
        config = make_config(backends=models, rag={"cache": {"answers": {"enabled": True}}})
        sections = config.model_dump(mode="json", include={"backends", "rag"})
        try:
            async with managing(tmp_path, health=QUICK, **sections) as manager, _kept(manager, model) as (served, old):
                released = asyncio.Event()
                model.on(CHAT, held(EVENTS, released), says("A lime weighs 67 grams."))
                async with connected(served.port) as stream:
                    await _begin(stream)
                    await upgraded(manager)
                    assert await _cache_state(old) == "miss"
                    async with connected(served.port) as new:
                        assert [await _cache_state(new) for _ in range(2)] == ["miss"] * 2
                    released.set()
                    await stream.reader.readuntil(EVENTS[-1])
                assert await served.exit_code() == 0
                async with connected(served.port) as new:
                    assert await _cache_state(new) == "miss"
                    await _until_kept(new)
        finally:
            await drop_collection(vector_url, collection_name)


@asynccontextmanager
async def _kept(manager: Manager, model: FaultBackend) -> AsyncIterator[tuple[Served, Client]]:
    """Start a server that keeps the answer to LIME; yield it with a connection that it has."""
    model.on(CHAT, says("A lime weighs 67 grams."))
    served = await manager.start()
    await manager.ready()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(connected(served.port))
        document: dict[str, Any] = {"id": "lime", "text": "Limes are green. A lime weighs 67 grams."}
        status, _ = await client.ask(post("/rag/ingest", json.dumps({"documents": [document]}).encode()))
        assert status == 200
        await _until_kept(client)
        yield served, client


async def _begin(client: Client) -> None:
    """Ask for a stream, and wait for its first event."""
    client.writer.write(ASKED)
    await client.reader.readuntil(EVENTS[0])


async def _until_kept(client: Client) -> None:
    """Ask until the answer is kept: a busy machine needs a moment to find out the models."""
    async with asyncio.timeout(30):
        while await _cache_state(client) != "hit":
            pass


async def _cache_state(client: Client) -> str:
    """Ask, and return what the answer says of the cache."""
    client.writer.write(LIME)
    head = (await client.head()).decode().lower()
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
    async with asyncio.timeout(30):
        await client.reader.readexactly(int(fields["content-length"]))
    return fields["x-hartonomous-cache"]
