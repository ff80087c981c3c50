"""The vectors of questions: asked for once, by one caller for all, and never kept where they are wrong."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest
from msgspec.structs import replace

from hartonomous.cache import groups
from hartonomous.cache.vectors import QuestionVectors
from hartonomous.clients.failures import BackendRefusedError
from hartonomous.config import EmbeddingCache
from hartonomous.core.access import EVERYTHING, Grant
from hartonomous.core.fingerprint import EmbeddingFingerprint
from hartonomous.errors import BackendError, BackendUnavailableError, HartonomousError
from hartonomous.metrics import Metrics
from hartonomous.pipelines.questions import Account, Question, SearchRequest
from hartonomous.pipelines.vectorizing import Vectorizer
from tests.pipelines.fakes import FINGERPRINT, OTHER, Embedding, Schema, call, until

DOWN = BackendUnavailableError("down")


class Service(Embedding):
    """A service whose model can be changed, also while it embeds."""

    def __init__(self) -> None:
        super().__init__()
        self.now: EmbeddingFingerprint = FINGERPRINT
        self.then: EmbeddingFingerprint | None = None

    async def fingerprint(self, call: Any) -> EmbeddingFingerprint:
        return self.now

    async def embed_queries(self, texts: Any, call: Any) -> Any:
        embedded = await super().embed_queries(texts, call)
        self.now = self.then or self.now
        return embedded


class Rig:
    """A vectorizer before a service that counts."""

    def __init__(self, **limits: Any) -> None:
        self.service, self.metrics = Service(), Metrics()
        vectors = QuestionVectors(EmbeddingCache(**limits), 60.0, self.metrics)
        service, schema = cast("Any", self.service), cast("Any", Schema())
        self.vectorizer = Vectorizer(service, schema, Account(self.metrics), vectors)

    async def ask(
        self, *texts: str, seconds: float = 60.0, mode: Any = "hybrid", grant: Grant = EVERYTHING
    ) -> list[Question]:
        items = [Question(SearchRequest(text, "docs", 5, mode)) for text in texts]
        await self.vectorizer.embed(items, replace(call(seconds), grant=grant))
        return items

    def counted(self) -> dict[str, float]:
        labels = ({"cache": "embeddings", "outcome": outcome} for outcome in ("hit", "miss", "joined"))
        name = "hartonomous_cache_requests_total"
        return {label["outcome"]: self.metrics.registry.get_sample_value(name, label) or 0 for label in labels}


def vectors(items: list[Question]) -> list[Any]:
    return [item.vector and list(item.vector) for item in items]


async def test_callers_with_different_grants_are_embedded_for_apart() -> None:
    """How soon an answer comes does not tell what another tenant has asked."""
    rig = Rig()
    one, two = Grant.of(["docs", "a"]), Grant.of(["docs", "b"])
    together = await asyncio.gather(*(rig.ask("q", grant=grant) for grant in (one, two)))
    assert all(vectors(items)[0] for items in together)
    assert rig.counted() == {"hit": 0, "miss": 2, "joined": 0}
    await rig.ask("q", grant=Grant.of(["a", "docs"]))
    assert rig.counted() == {"hit": 1, "miss": 2, "joined": 0}


async def test_only_what_is_missing_is_asked_for_and_equal_texts_once() -> None:
    rig = Rig()
    await rig.ask("a", "bb")
    items = await rig.ask("bb", "ccc", "a", "ccc", "dddd")
    assert rig.service.batches == [["a", "bb"], ["ccc", "dddd"]]
    assert vectors(items) == [[1.0, length] for length in (2.0, 3.0, 1.0, 3.0, 4.0)]
    assert rig.counted() == {"hit": 2, "miss": 4, "joined": 0}


async def test_a_hundred_equal_questions_at_once_are_one_call() -> None:
    rig = Rig()
    rig.service.gate = asyncio.Event()
    tasks = [asyncio.create_task(rig.ask("a")) for _ in range(100)]
    await until(lambda: rig.counted()["joined"] == 99)
    rig.service.gate.set()
    assert [vectors(items) for items in await asyncio.gather(*tasks)] == [[[1.0, 1.0]]] * 100
    assert rig.service.batches == [["a"]]


async def test_what_another_has_under_way_is_waited_for_and_the_rest_asked_beside_it() -> None:
    rig = Rig()
    rig.service.gate = asyncio.Event()
    first = asyncio.create_task(rig.ask("a", "bb"))
    await until(lambda: rig.service.batches)
    second = asyncio.create_task(rig.ask("bb", "ccc"))
    await until(lambda: len(rig.service.batches) == 2)
    rig.service.gate.set()
    assert vectors(await second) == [[1.0, 2.0], [1.0, 3.0]]
    assert vectors(await first) == [[1.0, 1.0], [1.0, 2.0]]
    assert rig.service.batches == [["a", "bb"], ["ccc"]]


async def test_row_37_the_first_of_many_is_cancelled_and_the_others_are_served() -> None:
    rig = Rig()
    rig.service.gate = asyncio.Event()
    tasks = [asyncio.create_task(rig.ask("a")) for _ in range(10)]
    await until(lambda: rig.counted()["joined"] == 9)
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    rig.service.gate.set()
    assert [vectors(items) for items in await asyncio.gather(*tasks[1:])] == [[[1.0, 1.0]]] * 9
    assert rig.service.batches == [["a"]]


async def test_when_all_have_left_the_call_is_given_up() -> None:
    rig = Rig()
    rig.service.gate = asyncio.Event()
    tasks = [asyncio.create_task(rig.ask("a", "bb", "ccc", "dddd", "eeeee")) for _ in range(3)]
    await until(lambda: rig.service.active == 2)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await until(lambda: rig.service.active == 0)


async def test_a_caller_in_a_hurry_fails_alone() -> None:
    rig = Rig()
    rig.service.gate = asyncio.Event()
    patient = asyncio.create_task(rig.ask("a"))
    await until(lambda: rig.service.batches)
    (item,) = await rig.ask("a", seconds=0.01)
    assert item.error is not None
    assert item.error.status == 504
    rig.service.gate.set()
    assert vectors(await patient) == [[1.0, 1.0]]


async def test_row_38_an_error_reaches_all_who_wait_and_is_not_kept() -> None:
    rig = Rig()
    rig.service.error, rig.service.gate = DOWN, asyncio.Event()
    tasks = [asyncio.create_task(rig.ask("a", mode="dense")) for _ in range(10)]
    await until(lambda: rig.counted()["joined"] == 9)
    rig.service.gate.set()
    errors = [items[0].error for items in await asyncio.gather(*tasks)]
    assert [error and error.status for error in errors] == [503] * 10
    assert len({id(error) for error in errors}) == 10
    rig.service.error = None
    assert vectors(await rig.ask("a")) == [[1.0, 1.0]]


async def test_a_question_too_long_for_the_model_is_found_among_those_of_others() -> None:
    rig = Rig()
    rig.service.gate = asyncio.Event()
    first = asyncio.create_task(rig.ask("a", "long"))
    await until(lambda: rig.service.batches)
    second = asyncio.create_task(rig.ask("a"))
    await until(lambda: rig.counted()["joined"])
    rig.service.gate.set()
    assert vectors(await second) == [[1.0, 1.0]]
    good, _ = await first
    assert good.error is None


@pytest.mark.parametrize("mode", ["hybrid", "dense"])
async def test_vectors_of_a_model_that_came_meanwhile_are_neither_used_nor_kept(mode: str) -> None:
    rig = Rig()
    rig.service.then = OTHER
    (item,) = await rig.ask("a", mode=mode)
    assert item.vector is None
    assert (item.degraded, item.error is None) == ((["embedding"], True) if mode == "hybrid" else ([], False))
    rig.service.now, rig.service.then = FINGERPRINT, None
    assert vectors(await rig.ask("a")) == [[1.0, 1.0]]
    assert rig.service.batches == [["a"], ["a"]]


async def test_another_model_or_prefix_finds_nothing_of_the_one_before() -> None:
    metrics, service = Metrics(), Service()
    cache = QuestionVectors(EmbeddingCache(), 60.0, metrics)

    async def embed(texts: Any, shared: Any) -> list[Any]:
        return list((await service.embed_queries(texts, shared)).vectors)

    for fingerprint in (FINGERPRINT, OTHER, EmbeddingFingerprint("fake", 2, "query: ", "")):
        (outcome,) = await cache.get(fingerprint, ["a"], 4, embed, call())
        assert not isinstance(outcome, HartonomousError)
    assert len(service.batches) == 3


async def test_the_cache_is_bounded() -> None:
    rig = Rig(max_entries=2)
    await rig.ask("a", "bb", "ccc")
    await rig.ask("a")
    assert rig.service.batches == [["a", "bb", "ccc"], ["a"]]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let groups gather until the call under way has ended, however long that takes."""
    monkeypatch.setattr(groups, "_MOST_WAIT_S", 60.0)


async def begun(rig: Rig) -> asyncio.Task[list[Question]]:
    """Have a question embedded that does not end before its time, so that others gather."""
    rig.service.gate = asyncio.Event()
    task = asyncio.create_task(rig.ask("first"))
    await until(lambda: rig.service.batches)
    return task


@pytest.mark.usefixtures("patient")
async def test_single_questions_that_come_while_a_call_is_under_way_go_together_in_the_next() -> None:
    rig = Rig()
    first = await begun(rig)
    tasks = [asyncio.create_task(rig.ask(text)) for text in ("a", "bb", "ccc")]
    await until(lambda: rig.counted()["miss"] == 4)
    cast("asyncio.Event", rig.service.gate).set()
    assert [vectors(items) for items in await asyncio.gather(*tasks)] == [[[1.0, length]] for length in (1.0, 2.0, 3.0)]
    assert vectors(await first) == [[1.0, 5.0]]
    assert rig.service.batches == [["first"], ["a", "bb", "ccc"]]
    assert rig.counted() == {"hit": 0, "miss": 4, "joined": 0}


@pytest.mark.usefixtures("patient")
async def test_a_full_group_does_not_wait_and_the_next_one_gathers() -> None:
    rig = Rig()
    first = await begun(rig)
    tasks = [asyncio.create_task(rig.ask(text)) for text in ("a", "b", "c", "d", "e")]
    await until(lambda: len(rig.service.batches) == 2)
    assert rig.service.batches[1] == ["a", "b", "c", "d"]
    cast("asyncio.Event", rig.service.gate).set()
    await asyncio.gather(first, *tasks)
    assert rig.service.batches[2] == ["e"]


async def test_a_call_that_hangs_holds_a_group_up_for_a_moment_only() -> None:
    rig = Rig()
    first = await begun(rig)
    second = asyncio.create_task(rig.ask("a"))
    for _ in range(5_000):
        if len(rig.service.batches) == 2:
            break
        await asyncio.sleep(0.001)
    assert rig.service.batches == [["first"], ["a"]]
    assert not first.done()
    cast("asyncio.Event", rig.service.gate).set()
    await asyncio.gather(first, second)


@pytest.mark.usefixtures("patient")
async def test_who_leaves_a_group_that_gathers_leaves_the_others_alone() -> None:
    rig = Rig()
    first = await begun(rig)
    tasks = [asyncio.create_task(rig.ask(text)) for text in ("a", "bb")]
    await until(lambda: rig.counted()["miss"] == 3)
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    cast("asyncio.Event", rig.service.gate).set()
    assert vectors(await tasks[1]) == [[1.0, 2.0]]
    await first


@pytest.mark.usefixtures("patient")
async def test_a_group_that_all_have_left_is_never_asked_and_nobody_joins_it() -> None:
    rig = Rig()
    first = await begun(rig)
    gone = asyncio.create_task(rig.ask("a"))
    await until(lambda: rig.counted()["miss"] == 2)
    gone.cancel()
    second = asyncio.create_task(rig.ask("bb"))  # comes before the group has heard of it
    await until(lambda: rig.counted()["miss"] == 3)
    cast("asyncio.Event", rig.service.gate).set()
    assert vectors(await second) == [[1.0, 2.0]]
    await first
    assert rig.service.batches == [["first"], ["bb"]]


@pytest.mark.usefixtures("patient")
async def test_one_question_that_breaks_the_service_harms_nobody_in_its_group() -> None:
    rig = Rig()
    first = await begun(rig)
    rig.service.error, rig.service.failing = DOWN, "poison"
    tasks = [asyncio.create_task(rig.ask(text, mode="dense")) for text in ("a", "poison", "ccc")]
    await until(lambda: rig.counted()["miss"] == 4)
    cast("asyncio.Event", rig.service.gate).set()
    answers = [items[0] for items in await asyncio.gather(first, *tasks)]
    assert [item.error and item.error.status for item in answers] == [None, None, 503, None]
    assert rig.service.batches == [["first"], ["a", "poison", "ccc"], ["a"], ["poison"], ["ccc"]]


async def together(rig: Rig, *texts: str) -> None:
    """Have questions embedded of which all but the first come while that one is under way."""
    before, missed = len(rig.service.batches), rig.counted()["miss"]
    rig.service.gate = asyncio.Event()
    first = asyncio.create_task(rig.ask(texts[0]))
    await until(lambda: len(rig.service.batches) > before)
    others = [asyncio.create_task(rig.ask(text)) for text in texts[1:]]
    await until(lambda: rig.counted()["miss"] == missed + len(texts))
    rig.service.gate.set()
    assert vectors([items[0] for items in await asyncio.gather(first, *others)]) == [[1.0, len(text)] for text in texts]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("error", [BackendError("a wrong count"), BackendRefusedError("no lists", answered=422)])
async def test_a_service_that_takes_one_text_in_a_call_is_not_asked_for_more_again_and_again(
    error: HartonomousError, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig()
    rig.service.error, rig.service.takes = error, 1
    await together(rig, "a", "bb", "ccc")
    assert rig.service.batches == [["a"], ["bb", "ccc"], ["bb"], ["ccc"]]
    await together(rig, "dddd", "eeeee", "ffffff")
    assert rig.service.batches[4:] == [["dddd"], ["eeeee"], ["ffffff"]]
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 601)  # a while later it may have learned
    rig.service.error = None
    await together(rig, "g", "hh", "iii")
    assert rig.service.batches[7:] == [["g"], ["hh", "iii"]]


@pytest.mark.usefixtures("patient")
async def test_a_crowd_that_comes_first_sends_one_group_to_a_service_that_takes_one_text_in_a_call() -> None:
    rig = Rig()
    rig.service.error, rig.service.takes = BackendError("a wrong count"), 1
    await together(rig, "first", *(letter * length for length, letter in enumerate("abcdefghijkl", start=1)))
    assert [len(batch) for batch in rig.service.batches] == [1, 4, *[1] * 12]


@pytest.mark.usefixtures("patient")
async def test_once_a_group_was_answered_none_waits_for_another_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_TRIAL_S", 60.0)
    rig = Rig()
    first = await begun(rig)
    tasks = [asyncio.create_task(rig.ask(letter)) for letter in "abcdefghijkl"]
    await until(lambda: len(rig.service.batches) == 2)
    trial, rig.service.gate = cast("asyncio.Event", rig.service.gate), asyncio.Event()
    trial.set()
    await until(lambda: len(rig.service.batches) == 4)
    rig.service.gate.set()
    await asyncio.gather(first, *tasks)


async def test_a_first_group_that_hangs_holds_the_others_up_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_TRIAL_S", 0.001)
    rig = Rig()
    first = await begun(rig)
    tasks = [asyncio.create_task(rig.ask(letter)) for letter in "abcdefgh"]
    await until(lambda: len(rig.service.batches) == 3)
    assert rig.service.batches[1:] == [["a", "b", "c", "d"], ["e", "f", "g", "h"]]
    cast("asyncio.Event", rig.service.gate).set()
    await asyncio.gather(first, *tasks)


@pytest.mark.usefixtures("patient")
async def test_a_service_that_was_not_available_for_a_moment_is_asked_for_several_again() -> None:
    rig = Rig()
    rig.service.error, rig.service.takes = DOWN, 1
    await together(rig, "a", "bb", "ccc")
    rig.service.error = None
    await together(rig, "dddd", "eeeee", "ffffff")
    assert rig.service.batches[-1] == ["eeeee", "ffffff"]


@pytest.mark.usefixtures("patient")
async def test_questions_that_are_too_much_together_do_not_part_those_of_others() -> None:
    rig = Rig()
    rig.service.error, rig.service.takes = BackendRefusedError("too large", answered=413), 1
    await together(rig, "a", *(letter * 8_192 for letter in "bcd"))
    rig.service.error = None
    await together(rig, "dddd", "eeeee", "ffffff")
    assert rig.service.batches[-1] == ["eeeee", "ffffff"]


@pytest.mark.usefixtures("patient")
async def test_each_in_a_group_waits_no_longer_than_their_own_deadline() -> None:
    rig = Rig()
    first = await begun(rig)
    patient, hurried = asyncio.create_task(rig.ask("a")), asyncio.create_task(rig.ask("bb", seconds=0.03))
    (item,) = await hurried
    assert item.error is not None
    assert item.error.status == 504
    cast("asyncio.Event", rig.service.gate).set()
    assert vectors(await patient) == [[1.0, 1.0]]
    await first
