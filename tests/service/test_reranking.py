"""The reranking client: what is too long is cut, what tells nothing is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from hartonomous.clients.pool import Pool
from hartonomous.clients.reranking import RerankingClient
from hartonomous.core.access import EVERYTHING
from hartonomous.core.call import Call
from hartonomous.core.deadline import Deadline
from hartonomous.core.fusion import sigmoids
from hartonomous.core.tokens import estimate_tokens
from hartonomous.errors import BackendError, ValidationFailedError
from hartonomous.metrics import Metrics
from hartonomous.services import Address, Reranking
from tests.service.fault_backend import Behaviour, Exchange, FaultBackend, json_reply, reply

RERANK = "/v1/rerank"
LONG = "several words of one long text " * 2_000
TOO_LONG = {"error": {"code": 500, "message": "input is too large to process", "type": "server_error"}}


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def call() -> Call:
    return Call("test", Deadline(60.0), grant=EVERYTHING)


def ranked(*scores: float) -> Behaviour:
    results = [{"index": index, "relevance_score": score} for index, score in enumerate(scores)]
    return json_reply({"results": results})


def takes(characters: int) -> Behaviour:
    """Rank what is no longer than so many characters, question and document together."""

    async def behave(exchange: Exchange) -> None:
        body = exchange.request.json
        if max(map(len, body["documents"])) + len(body["query"]) > characters:
            await json_reply(TOO_LONG, status=500)(exchange)
        else:
            await ranked(*range(len(body["documents"])))(exchange)

    return behave


def sent(backend: FaultBackend) -> list[int]:
    """Return how many tokens the longest pair of each call has, as estimated."""
    bodies = [request.json for request in backend.calls(RERANK)]
    return [estimate_tokens(body["query"]) + max(map(estimate_tokens, body["documents"])) for body in bodies]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client(faulty: FaultBackend, clock: Clock) -> AsyncIterator[RerankingClient]:
    """A client of a service with a context of 4,096 tokens."""
    config = Reranking(urls=(Address(url=faulty.url),))
    pool = Pool("reranking", config.urls, config, Metrics())
    yield RerankingClient(pool, config, Metrics(), clock)
    await pool.close()


async def real(url: str, query: str, documents: list[str], **settings: Any) -> list[float]:
    """Return what a real service says."""
    config = Reranking(urls=(Address(url=url),), **settings)
    pool = Pool("reranking", config.urls, config, Metrics())
    try:
        return await RerankingClient(pool, config, Metrics()).rerank(query, documents, call())
    finally:
        await pool.close()


async def test_llama_cpp_ranks_texts_and_questions_beyond_its_context(reranking_url: str) -> None:
    for query in ("a lamp burns oil", "which lamp burns oil " * 300):
        scores = await real(reranking_url, query, [LONG, "a flask", "日本語のテキスト" * 400, "x" * 9_000])
        assert len(set(scores)) > 1
        assert all(0 <= score <= 1 for score in scores)


async def test_a_text_is_cut_into_the_context_that_the_service_tells(
    client: RerankingClient, faulty: FaultBackend
) -> None:
    faulty.on(RERANK, ranked(2.0, -1.0))
    scores = await client.rerank("which words", ["short", LONG], call())
    assert scores == sigmoids([2.0, -1.0])
    (tokens,) = sent(faulty)
    assert 3_500 < tokens < 4_096
    assert faulty.calls(RERANK)[0].json["documents"][0] == "short"


async def test_a_service_that_tells_no_context_gets_the_whole_text(
    client: RerankingClient, faulty: FaultBackend
) -> None:
    faulty.on("/v1/models", reply(404))
    faulty.on(RERANK, ranked(2.0, -1.0))
    await client.rerank("which words", ["short", LONG], call())
    assert faulty.calls(RERANK)[0].json["documents"] == ["short", LONG]


async def test_a_batch_smaller_than_the_context_is_found_and_remembered_for_a_while(
    client: RerankingClient, faulty: FaultBackend, clock: Clock
) -> None:
    faulty.on(RERANK, takes(3_000))
    for _ in range(2):
        assert len(await client.rerank("which words", ["short", LONG], call())) == 2
    first, second, third = sent(faulty)
    assert first > 512 > second == third
    clock.now = 61.0
    await client.rerank("which words", ["short", LONG], call())
    assert len(sent(faulty)) == 5


async def test_a_text_of_more_tokens_than_estimated_is_cut_further_and_does_not_shorten_others(
    client: RerankingClient, faulty: FaultBackend
) -> None:
    faulty.on(RERANK, takes(500))
    await client.rerank("which words", ["short", LONG], call())
    calls = len(faulty.calls(RERANK))
    assert 2 <= calls <= 4
    faulty.on(RERANK, ranked(2.0, -1.0))
    await client.rerank("which words", ["short", LONG], call())
    assert sent(faulty)[-1] > 400


async def test_a_service_that_takes_nothing_is_an_error_after_few_calls(
    client: RerankingClient, faulty: FaultBackend
) -> None:
    faulty.on(RERANK, takes(0))
    with pytest.raises(ValidationFailedError):
        await client.rerank("which words", ["short", LONG], call())
    assert len(faulty.calls(RERANK)) == 4


@pytest.mark.parametrize("scores", [(1.0, 1.0, 1.0), (-3.0, -3.0000001, -3.0), (4e-20, 1e-22, 0.0), (0.0, 0.0, 0.0)])
async def test_scores_that_tell_nothing_are_no_ranking(
    client: RerankingClient, faulty: FaultBackend, scores: tuple[float, ...]
) -> None:
    faulty.on(RERANK, ranked(*scores))
    with pytest.raises(BackendError):
        await client.rerank("query", ["one", "two", "three"], call())


async def test_one_text_or_equal_texts_may_have_one_score(client: RerankingClient, faulty: FaultBackend) -> None:
    faulty.on(RERANK, ranked(1.0), ranked(1.0, 1.0))
    assert await client.rerank("query", ["one"], call()) == sigmoids([1.0])
    assert await client.rerank("query", ["one", "one"], call()) == sigmoids([1.0, 1.0])


async def test_low_scores_that_differ_are_a_ranking(client: RerankingClient, faulty: FaultBackend) -> None:
    faulty.on(RERANK, ranked(-11.02, -11.03))
    first, second = await client.rerank("query", ["one", "two"], call())
    assert 0 < second < first < 1e-4
