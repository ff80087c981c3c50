"""Support by similarity: who is asked about, who is asked, and what it may not change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from hartonomous.clients.embedding import Embedded
from hartonomous.config import Generation, Retrieval
from hartonomous.core.citations import AnswerBuilder, SentenceGrounding
from hartonomous.errors import BackendUnavailableError
from hartonomous.metrics import Metrics
from hartonomous.pipelines.paraphrase import Paraphrases, calibrated
from hartonomous.pipelines.query import Answerer, QueryRequest, QueryResult
from hartonomous.pipelines.questions import SearchRequest
from hartonomous.pipelines.search import Searcher
from hartonomous.pipelines.traffic import Traffic
from tests.pipelines.fakes import Embedding, Generative, Schema, Vectors, call, hits, questions

SOURCES = ["The warranty does not cover water damage. It lasts 3 years.", "Smoking is prohibited in the building."]
SAME = "You may not light cigarettes indoors."


class Similar:
    """An embedding service for which texts that share a key word are the same, and all others at right angles."""

    def __init__(self, *alike: str, batch_size: int = 64) -> None:
        self.alike = alike
        self.batch_size = batch_size
        self.asked: list[list[str]] = []
        self.error: Exception | None = None

    async def embed_documents(self, texts: Sequence[str], _: Any) -> Embedded:
        self.asked.append(list(texts))
        if self.error:
            raise self.error
        return Embedded([self._vector(place, text) for place, text in enumerate(texts)], len(texts))

    def _vector(self, place: int, text: str) -> list[float]:
        vector = [0.0] * 300
        vector[0 if any(word in text for word in self.alike) else place + 1] = 2.0
        return vector


async def support(
    service: Similar, text: str, sources: Sequence[str] = SOURCES
) -> tuple[list[SentenceGrounding], list[SentenceGrounding]]:
    builder = AnswerBuilder(sources)
    builder.feed(text)
    builder.finish()
    rows = await Paraphrases(cast("Any", service)).support(builder.grounding, builder.answer, sources, call())
    return builder.grounding, rows


async def test_a_sentence_in_other_words_gains_support_and_its_row_names_the_source() -> None:
    service = Similar("cigarettes", "Smoking")
    before, after = await support(service, f"{SAME} The warranty lasts 3 years.")
    assert before[0].support < 0.5
    assert (after[0].support, after[0].markers) == (1.0, [2])
    assert (after[0].start, after[0].end) == (before[0].start, before[0].end)
    assert after[1] == before[1]
    assert len(service.asked) == 1
    assert service.asked[0][0] == SAME


@pytest.mark.parametrize(
    "text",
    [
        "You may not light 4 cigarettes indoors.",
        "You may not light cigarettes in Ulm.",
        "Is it allowed to light cigarettes?",
        "I do not know about cigarettes.",
        "# You may not light cigarettes",
        "Smoking is prohibited in the building.",
    ],
)
async def test_no_one_asks_about_foreign_numbers_and_names_nor_about_what_claims_nothing_or_is_supported(
    text: str,
) -> None:
    service = Similar("cigarettes", "Smoking")
    before, after = await support(service, text)
    assert after == before
    assert service.asked == []


async def test_a_source_supports_only_what_has_none_but_its_numbers() -> None:
    """The number stands in the first source, so a similar sentence of the second one does not count."""
    _, after = await support(Similar("cigarettes", "Smoking"), "You may not light cigarettes indoors for 3 years.")
    assert after[0].support < 0.5


async def test_the_sentences_with_most_words_in_common_are_asked_first_and_the_rest_not_at_all() -> None:
    filler = " ".join(f"Nothing else is said under letter {chr(97 + n % 26) * 3}." for n in range(300))
    service = Similar("cigarettes", "Smoking", batch_size=40)
    await support(service, SAME, [filler, "Indoors one stays quiet.", SOURCES[1]])
    assert len(service.asked) == 1
    assert len(service.asked[0]) == 40
    assert service.asked[0][1] == "Indoors one stays quiet."


async def test_a_failure_of_the_service_is_told() -> None:
    service = Similar()
    service.error = BackendUnavailableError("down", retry_after=1)
    with pytest.raises(BackendUnavailableError):
        await support(service, SAME)


@pytest.mark.parametrize(("cosine", "expected"), [(-1.0, 0.0), (0.37, 0.0), (0.62, 0.5), (0.87, 1.0), (1.0, 1.0)])
def test_similarity_is_calibrated(cosine: float, expected: float) -> None:
    assert calibrated(cosine) == pytest.approx(expected)


class TestInAnAnswer:
    """The query pipeline with grounding by embedding; hit a says what the answer says, in other words."""

    def parts(self, service: Similar) -> Answerer:
        ranked = hits(a=0.9)
        ranked[0].chunk.text = SOURCES[1]
        vectors, generative = Vectors(dense=ranked), Generative(SAME)
        fakes: list[Any] = [Embedding(), vectors, Schema(), generative]
        retrieval, traffic = Retrieval(min_similarity=0.5), Traffic()
        searcher = Searcher(fakes[0], None, fakes[1], fakes[2], retrieval, Metrics(), traffic, questions())
        paraphrases = Paraphrases(cast("Any", service))
        return Answerer(searcher, fakes[3], retrieval, Generation(), Metrics(), traffic, paraphrases=paraphrases)

    async def ask(self, service: Similar) -> QueryResult:
        search = SearchRequest(query="Smoking?", collection="docs", top_k=5)
        return await self.parts(service).answer(QueryRequest(search=search), call())

    async def test_the_text_stays_and_nothing_is_quoted_behind_what_gained_support(self) -> None:
        result = await self.ask(Similar("cigarettes", "Smoking"))
        assert result.answer == SAME
        assert [(row.markers, row.support) for row in result.grounding] == [([1], 1.0)]
        assert (result.cited, result.degraded) == ([], [])

    async def test_without_the_service_the_words_decide_and_the_answer_says_so(self) -> None:
        service = Similar("cigarettes", "Smoking")
        service.error = BackendUnavailableError("down", retry_after=1)
        result = await self.ask(service)
        assert result.degraded == ["grounding"]
        assert result.answer.startswith(SAME)
        assert result.grounding[0].support < 0.5
