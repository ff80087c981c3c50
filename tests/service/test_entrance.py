"""Whatever way a path is written in, a request comes to the same route; paths that are found at once share nothing."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest
from yarl import URL

from hartonomous import gathering
from hartonomous.gathering import Gathering
from tests.service.application import RunningApp


async def _status(app: RunningApp, line: str) -> int:
    """Send a request of this first line; return the status."""
    address = urlsplit(app.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(f"{line} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n\r\n".encode())
        return int((await reader.read()).split(b" ", 2)[1])
    finally:
        writer.close()


@pytest.mark.parametrize("target", ["/health", "/health?", "/health?a=b", "/%68ealth", "/health#there"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_path_leads_to_its_route_however_it_is_written(api: RunningApp, method: str, target: str) -> None:
    assert await _status(api, f"{method} {target}") == 200


async def test_the_address_of_the_server_may_stand_in_the_target(api: RunningApp) -> None:
    assert await _status(api, f"GET {api.url}/health") == 200


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("POST /health", 405),
        ("GET /rag/query", 405),
        ("GET /health/", 404),
        ("GET //health", 404),
        ("GET /Health", 404),
        ("GET /rag/collections/%7Bname%7D", 404),
    ],
)
async def test_another_path_or_method_leads_nowhere(api: RunningApp, line: str, status: int) -> None:
    assert await _status(api, line) == status


@pytest.mark.parametrize(("path", "gathers"), [("/rag/query", True), ("/rag/search", True), ("/v1/embeddings", False)])
async def test_questions_begin_with_others_and_what_is_passed_on_does_not(
    api: RunningApp, monkeypatch: pytest.MonkeyPatch, path: str, gathers: bool
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(Gathering, "take", lambda _, under_way: asked.append(under_way))
    await api.post(path, {})
    assert asked == ([0] if gathers else [])


async def test_questions_that_come_while_others_are_under_way_are_all_answered(
    api: RunningApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "FEW", 0)
    monkeypatch.setattr(gathering, "IDLE_S", 0.0)
    answers = await asyncio.gather(*(api.post("/rag/search", {"query": "", "top_k": n}) for n in range(40)))
    assert {status for status, _ in answers} == {422}


async def test_requests_of_one_route_at_once_are_each_their_own(api: RunningApp) -> None:
    async def name(number: int) -> str:
        url = URL(api.url + "/health", encoded=True)
        async with api.session.get(url, headers={"X-Request-ID": f"r{number}"}) as response:
            return response.headers["X-Request-ID"]

    assert await asyncio.gather(*map(name, range(50))) == [f"r{number}" for number in range(50)]
