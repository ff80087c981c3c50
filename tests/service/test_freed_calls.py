"""What failed calls and lost connections held is freed at once, without the garbage collector.

A request's body may have megabytes: in a cycle they would stay until the collector's next full round.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
from aiohttp import web

from hartonomous.clients.exchange import Exchange
from hartonomous.clients.guard import Request
from hartonomous.config import Config
from hartonomous.connection import Connection
from tests.service import fault_backend as fault
from tests.service.application import RunningApp, eventually, running
from tests.service.fault_backend import FaultBackend
from tests.service.rag import CHAT
from tests.service.sockets import connected, port_of, post

COUNTED = (Exchange, Request, web.Request, Connection)
NOBODY = "http://127.0.0.1:9"
EVENT = b"data: 1\n\n"
CALLS = 5


@pytest.fixture
async def app(faulty: FaultBackend) -> AsyncIterator[RunningApp]:
    """The application in front of the faulty backend, which may fail as often as it likes."""
    service = {"urls": (faulty.url,), "first_byte_timeout_s": 0.2, "breaker": {"failures": 1_000}}
    services = {"embedding": service, "generative": service, "qdrant": {"url": NOBODY}}
    async with running(Config.model_validate({"backends": services, "health": {"interval_s": 1000.0}})) as made:
        await eventually(made.runtime.monitor.first_round.is_set, "the first poll")
        yield made


def _held() -> Counter[str]:
    """Return how many there are of what a call is made of."""
    return Counter(type(one).__name__ for one in gc.get_objects() if isinstance(one, COUNTED))


@contextmanager
def _no_collector() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


async def _call(app: RunningApp, faulty: FaultBackend, *, leaves: bool) -> None:
    """Ask once over a connection of its own; whoever `leaves` does so when the backend has begun."""
    begun = len(faulty.calls(CHAT))
    async with connected(port_of(app.url)) as client:
        client.writer.write(post(CHAT, b'{"messages":[]}', b"Connection: close"))
        if not leaves:
            await client.rest()
            return
        await eventually(lambda: len(faulty.calls(CHAT)) > begun, "the call has begun")


async def _is_freed(app: RunningApp, faulty: FaultBackend, *, leaves: bool = False) -> None:
    """Call a few times, the first time for what is made once; hold what is left against what was there before."""
    await _call(app, faulty, leaves=leaves)
    await eventually(lambda: not app.runtime.pools["generative"].replicas[0].active, "the first call is over")
    with _no_collector():
        before = _held()
        for _ in range(CALLS):
            await _call(app, faulty, leaves=leaves)
        await eventually(lambda: not _held() - before, "everything is freed")


FAILURES = {
    "an answer": fault.reply(),
    "a stream": fault.stream([EVENT, b"data: [DONE]\n\n"]),
    "500": fault.reply(500),
    "503 with a time": fault.reply(503, headers={"Retry-After": "1"}),
    "400": fault.reply(400),
    "no HTTP": fault.raw(b"SSH-2.0\r\n"),
    "reset": fault.reset(),
    "closed": fault.close(),
    "time-out": fault.hang(),
    "broken stream": fault.stream([EVENT], end="reset"),
    "stream that ends early": fault.stream([EVENT], end="clean"),
    "cut": fault.cut(b"x" * 100_000, 500),
}


@pytest.mark.parametrize("behaviour", FAILURES.values(), ids=FAILURES.keys())
async def test_a_call_leaves_nothing_to_the_garbage_collector(
    app: RunningApp, faulty: FaultBackend, behaviour: fault.Behaviour
) -> None:
    faulty.on(CHAT, behaviour)
    await _is_freed(app, faulty)


LEFT = {"unanswered": fault.hang(), "in a stream": fault.stream([EVENT] * 3, end="hang")}


@pytest.mark.parametrize("behaviour", LEFT.values(), ids=LEFT.keys())
async def test_a_client_that_leaves_leaves_nothing_to_the_garbage_collector(
    app: RunningApp, faulty: FaultBackend, behaviour: fault.Behaviour
) -> None:
    faulty.on(CHAT, behaviour)
    await _is_freed(app, faulty, leaves=True)


async def test_an_address_that_refuses_leaves_nothing_to_the_garbage_collector(
    app: RunningApp, faulty: FaultBackend
) -> None:
    await faulty.stop()
    await _is_freed(app, faulty)
