"""The query pipeline by itself: the order of events, what is relevant, what fits, and the ways it fails."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, cast

import pytest
from msgspec import structs

from hartonomous.clients.points import Hit
from hartonomous.config import Generation, Retrieval
from hartonomous.errors import BackendError, BackendUnavailableError, DeadlineExceededError, ValidationFailedError
from hartonomous.metrics import Metrics
from hartonomous.pipelines.query import Answerer, Event, QueryRequest, QueryResult, SourcesFound, TextDelta
from hartonomous.pipelines.questions import SearchRequest
from hartonomous.pipelines.search import Searcher
from hartonomous.pipelines.traffic import Traffic
from tests.pipelines.fakes import Embedding, Generative, Schema, Vectors, call, chunk, hits, questions

DOWN = BackendUnavailableError("down", retry_after=1)


class Parts:
    """An answerer and its collaborators; hit a is similar, b shares words, c neither."""

    def __init__(self, *words: str, **generative: Any) -> None:
        self.vectors = Vectors(dense=hits(a=0.9, c=0.1), sparse=[Hit(chunk("b", "Words of b."), 9.0), *hits(c=1.0)])
        self.embedding = Embedding()
        self.generative = Generative(*words, **generative)
        fakes = (self.embedding, self.vectors, Schema(), self.generative)
        embedding, store, schema, service = (cast("Any", fake) for fake in fakes)
        retrieval = Retrieval(min_similarity=0.5, min_words=0.67)
        searcher = Searcher(embedding, None, store, schema, retrieval, Metrics(), Traffic(), questions())
        self.answerer = Answerer(searcher, service, retrieval, Generation(), Metrics(), Traffic())

    async def events(self, request: QueryRequest, seconds: float = 60.0) -> list[Event]:
        async with aclosing(self.answerer.stream(request, call(seconds))) as events:
            return [event async for event in events]


def ask(query: str = "words", **options: Any) -> QueryRequest:
    return QueryRequest(search=SearchRequest(query=query, collection="docs", top_k=5), **options)


async def test_events_are_sources_then_deltas_then_the_result() -> None:
    parts = Parts("One ", "two ", "three.")
    first, *deltas, last = await parts.events(ask())
    assert isinstance(first, SourcesFound)
    assert isinstance(last, QueryResult)
    texts = [delta.text for delta in deltas if isinstance(delta, TextDelta)]
    assert len(texts) == len(deltas) > 0
    assert all(texts)
    assert "".join(texts) == last.answer
    whole = await parts.answerer.answer(ask(), call())
    assert (whole.answer, whole.grounding, whole.cited) == (last.answer, last.grounding, last.cited)
    assert (last.model, last.finish_reason, last.usage.completion_tokens) == ("fake", "stop", 3)


async def test_only_relevant_hits_are_sources() -> None:
    result = await Parts("Yes.").answerer.answer(ask(), call())
    assert sorted(hit.chunk.id for hit in result.sources) == ["a", "b"]


async def test_where_only_words_were_searched_some_of_the_questions_words_are_enough() -> None:
    """BM25 has no scale over collections: in a small one no score reaches a threshold."""
    request = QueryRequest(search=SearchRequest("words and numbers", collection="docs", top_k=5, mode="sparse"))
    parts = Parts("Yes.")
    parts.vectors.rankings = {"sparse": [Hit(chunk("b", "Words of b."), 0.9), *hits(c=0.1)]}
    result = await parts.answerer.answer(request, call())
    assert [hit.chunk.id for hit in result.sources] == ["b"]


async def test_words_in_title_and_headings_count() -> None:
    parts = Parts("Yes.")
    titled = structs.replace(chunk("t"), title="On words", headings=("Numbers",))
    parts.vectors.rankings = {"dense": hits(a=0.9), "sparse": [Hit(titled, 0.9)]}
    result = await parts.answerer.answer(ask("words and numbers"), call())
    assert sorted(hit.chunk.id for hit in result.sources) == ["a", "t"]


async def test_when_nothing_is_relevant_no_model_is_asked() -> None:
    parts = Parts("An invention.")
    parts.vectors.rankings = {"dense": hits(a=0.4), "sparse": hits(b=3.9)}
    first, delta, last = await parts.events(ask())
    assert isinstance(first, SourcesFound)
    assert first.found.hits == []
    assert isinstance(delta, TextDelta)
    assert isinstance(last, QueryResult)
    assert delta.text == last.answer
    assert (last.sources, last.cited, last.model) == ([], [], None)
    assert parts.generative.asked == []


async def test_a_failure_before_the_first_word_raises_or_gives_the_sources() -> None:
    for parts in (Parts(), Parts()):
        parts.generative.error = DOWN
        with pytest.raises(BackendUnavailableError):
            await parts.events(ask())
        first, last = await parts.events(ask(sources_on_failure=True))
        assert isinstance(first, SourcesFound)
        assert isinstance(last, QueryResult)
        assert (last.answer, last.degraded) == ("", ["generation"])
        assert last.sources == first.found.hits
        assert len(parts.generative.asked) == 2


async def test_a_model_that_cannot_be_reached_for_its_context_is_down_before_the_first_event() -> None:
    parts = Parts()
    parts.generative.context_error = DOWN
    with pytest.raises(BackendUnavailableError):
        async with aclosing(parts.answerer.stream(ask(), call())) as events:
            await anext(events)
    first, last = await parts.events(ask(sources_on_failure=True))
    assert isinstance(first, SourcesFound)
    assert first.found.degraded == ["generation"]
    assert isinstance(last, QueryResult)
    assert last.degraded == ["generation"]


async def test_a_failure_after_the_first_word_always_raises() -> None:
    parts = Parts("One ", "two ", "three ", "four.")
    parts.generative.error = BackendError("broken")
    async with aclosing(parts.answerer.stream(ask(sources_on_failure=True), call())) as events:
        assert isinstance(await anext(events), SourcesFound)
        assert isinstance(await anext(events), TextDelta)
        with pytest.raises(BackendError):
            [event async for event in events]


async def test_a_passed_deadline_is_no_answer_from_the_sources() -> None:
    parts = Parts()
    parts.generative.error = DOWN
    with pytest.raises((BackendUnavailableError, DeadlineExceededError)):
        await parts.answerer.answer(ask(sources_on_failure=True), call(0))


async def test_a_stream_that_is_left_stops_the_model() -> None:
    parts = Parts("One ", "two ", "three.")
    async with aclosing(parts.answerer.stream(ask(), call())) as events:
        assert isinstance(await anext(events), SourcesFound)
        assert isinstance(await anext(events), TextDelta)
        assert parts.generative.active == 1
    assert parts.generative.active == 0


async def test_the_prompt_fits_the_context() -> None:
    parts = Parts("Yes.", context=400)
    long = " ".join(f"word{number}" for number in range(60))
    ranked = hits(**{f"h{number}": 0.9 - number / 100 for number in range(5)})
    for hit in ranked:
        hit.chunk.text = long
    parts.vectors.rankings = {"dense": ranked, "sparse": []}
    result = await parts.answerer.answer(ask(max_tokens=64), call())
    assert result.omitted > 0
    assert result.omitted + len(result.sources) == 5
    assert result.sources[0].chunk.id == "h0"


async def test_the_best_source_is_cut_where_it_alone_is_too_large() -> None:
    parts = Parts("Yes.", context=300)
    ranked = hits(a=0.9)
    ranked[0].chunk.text = " ".join(f"word{number}" for number in range(3_000))
    parts.vectors.rankings = {"dense": ranked, "sparse": []}
    result = await parts.answerer.answer(ask(max_tokens=16), call())
    prompt = parts.generative.asked[0]["messages"][-1]["content"]
    assert "word0 word1" in prompt
    assert "word2999" not in prompt
    assert result.omitted == 0


async def test_a_question_that_does_not_fit_is_refused() -> None:
    parts = Parts("Yes.", context=256)
    with pytest.raises(ValidationFailedError) as caught:
        await parts.answerer.answer(ask("many words " * 100), call())
    assert caught.value.param == "query"
    assert parts.generative.asked == []


async def test_the_answer_has_at_most_half_of_the_context() -> None:
    parts = Parts("Yes.", context=1_000)
    await parts.answerer.answer(ask(max_tokens=30_000), call())
    assert parts.generative.asked[0]["max_tokens"] == 500


async def test_options_go_over_the_configured_ones() -> None:
    parts = Parts("Yes.")
    await parts.answerer.answer(ask(options={"temperature": 0.9, "seed": 7}, model="m"), call())
    body = parts.generative.asked[0]
    assert (body["temperature"], body["seed"], body["model"]) == (0.9, 7, "m")
