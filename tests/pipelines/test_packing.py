"""Prompts packed into a context: never over it, and as full as it goes. The tiny model's tokens are bytes."""

from __future__ import annotations

import base64
import itertools
import random
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, cast

import pytest
from msgspec.structs import replace

from hartonomous.clients.generative import GenerativeClient
from hartonomous.clients.pool import Pool
from hartonomous.core.call import Call
from hartonomous.core.packing import Draft, Selection, careful, halved
from hartonomous.core.prompt import Source
from hartonomous.core.template import DEFAULT_TEMPLATE
from hartonomous.core.tokens import most_tokens
from hartonomous.errors import ValidationFailedError
from hartonomous.metrics import Metrics
from hartonomous.pipelines.packing import Packed, Packer
from hartonomous.services import Address, Generative
from tests.pipelines.fakes import Generative as Fake
from tests.pipelines.fakes import call

ENGLISH = "The lamp shines for fourteen hours on one charge and is made of brass by hand in the north. "
TEXTS = {
    "english": ENGLISH,
    "code": "for (int i = 0; i < n; ++i) {\n\t\tout[i] += a[i] * b[n - i]; // {question}\n}\n",
    "base64": base64.b64encode(random.Random(7).randbytes(600)).decode() + " ",
    "chinese": "这盏灯充一次电可以亮十四个小时。它由黄铜制成。",
    "korean": "이 램프는 한 번 충전으로 열네 시간 동안 빛납니다. ",
    "emoji": "🏮🔦👩‍🔬 café ½ ﷺ ",
}


class Counting(GenerativeClient):
    """The client of a real server, which remembers what it was asked."""

    context = 4096

    def __init__(self, pool: Pool, config: Generative) -> None:
        super().__init__(pool, config, Metrics())
        self.calls: list[str] = []

    async def context_tokens(self, call: Call) -> int:
        return self.context

    async def context_anew(self, call: Call) -> int:
        return self.context

    async def render(self, request: Mapping[str, Any], call: Call) -> str | None:
        self.calls.append("render")
        return await super().render(request, call)

    async def count_tokens(self, texts: Sequence[str], call: Call) -> list[int] | None:
        self.calls.append("count")
        return await super().count_tokens(texts, call)

    async def exactly(self, packed: Packed) -> int:
        """Return how many tokens the service itself says that the prompt has."""
        answer = await self.chat({"messages": packed.messages, "max_tokens": 1}, call())
        assert answer.usage is not None
        return answer.usage.prompt_tokens


@pytest.fixture
async def service(generative_url: str) -> AsyncIterator[Counting]:
    """The real server, packed for as if its context were 1,500 tokens."""
    config = Generative(urls=(Address(url=generative_url),))
    pool = Pool("generative", config.urls, config, Metrics())
    client = Counting(pool, config)
    client.context = 1_500
    yield client
    await pool.close()


def text_of(kind: str, size: int) -> str:
    """Return about so many bytes of a text."""
    once = TEXTS[kind]
    return (once * (1 + size // len(once.encode()))).encode()[:size].decode("utf-8", "ignore")


def draft(*texts: str, question: str = "How long?", history: Sequence[Mapping[str, str]] = ()) -> Draft:
    sources = [Source(text, f"T{number}") for number, text in enumerate(texts, 1)]
    return Draft(question, None, list(history), sources, DEFAULT_TEMPLATE)


async def test_what_surely_fits_costs_no_call(service: Counting) -> None:
    service.context = 4_096
    packed = await Packer(service).pack(draft(ENGLISH, ENGLISH), 64, {}, call())
    assert packed.shown.places == (0, 1)
    assert packed.max_tokens == 64
    assert service.calls == []


async def test_what_fits_by_a_count_costs_two_calls(service: Counting) -> None:
    packed = await Packer(service).pack(draft(ENGLISH, ENGLISH), 64, {}, call())
    assert packed.shown.places == (0, 1)
    assert service.calls == ["render", "count"]


@pytest.mark.parametrize("kind", TEXTS)
async def test_the_context_is_used_to_its_end_and_never_passed(service: Counting, kind: str) -> None:
    rng = random.Random(kind)
    for _ in range(4):
        texts = [text_of(kind, rng.randint(20, 400)) for _ in range(12)]
        service.calls.clear()
        wanted = draft(*texts)
        packed = await Packer(service).pack(wanted, 100, {}, call())
        assert len(service.calls) <= 3
        used = await service.exactly(packed)
        assert used + packed.max_tokens <= service.context
        left = [place for place in range(12) if place not in packed.shown.places]
        assert left
        assert packed.shown.places[0] == 0
        markers = re.findall(r"^<source>\n\[(\d+)\]", packed.messages[-1]["content"], re.MULTILINE)
        assert [int(marker) for marker in reversed(markers)] == list(range(1, 1 + len(packed.shown.places)))
        for place in left:
            more = wanted.only(sorted((*packed.shown.places, place)))
            larger = replace(packed, messages=wanted.messages(more), shown=more)
            assert await service.exactly(larger) + packed.max_tokens > service.context


@pytest.mark.parametrize("kind", TEXTS)
async def test_the_best_source_alone_is_cut_to_what_fits(service: Counting, kind: str) -> None:
    packed = await Packer(service).pack(draft(text_of(kind, 30_000), "Small."), 100, {}, call())
    assert packed.shown.places == (0,)
    (only,) = packed.shown.sources
    assert text_of(kind, 30_000).startswith(only.text)
    used = await service.exactly(packed)
    assert 0.85 * service.context < used + packed.max_tokens <= service.context


async def test_a_smaller_source_behind_one_that_does_not_fit_is_taken(service: Counting) -> None:
    packed = await Packer(service).pack(draft(ENGLISH, ENGLISH * 20, ENGLISH), 100, {}, call())
    assert packed.shown.places == (0, 2)
    assert "[2] T3" in packed.messages[-1]["content"]


@pytest.mark.parametrize("kind", ["english", "base64", "chinese"])
async def test_history_has_at_most_a_third_and_its_newest_turns(service: Counting, kind: str) -> None:
    turns = [
        {"role": ("user", "assistant")[place % 2], "content": f"{place}: {text_of(kind, 150)}"} for place in range(12)
    ]
    packed = await Packer(service).pack(draft(ENGLISH, ENGLISH * 9, history=turns), 100, {}, call())
    said = [message["content"] for message in packed.messages[1:-1]]
    assert said[-1] == turns[-1]["content"].strip()
    assert sum(len(text.encode()) for text in said) <= (service.context - 100) // 3
    assert packed.messages[1]["role"] == "user"
    assert await service.exactly(packed) + 100 <= service.context


async def test_two_long_turns_are_cut_rather_than_lost(service: Counting) -> None:
    turns = [{"role": "user", "content": "First. " * 300}, {"role": "assistant", "content": "Second. " * 300}]
    packed = await Packer(service).pack(draft(ENGLISH, history=turns), 100, {}, call())
    assert [message["role"] for message in packed.messages] == ["system", "user", "assistant", "user"]
    assert sum(len(message["content"]) for message in packed.messages[1:3]) <= (service.context - 100) // 3
    assert packed.shown.places == (0,)


def test_turns_that_fit_no_model_are_not_even_looked_at() -> None:
    turns = [
        {"role": role, "content": f"{number:02} " + "x" * 97} for number in range(50) for role in ("user", "assistant")
    ]
    assert draft(ENGLISH, history=turns).bounded(100).history == turns[-12:]
    last = draft(ENGLISH, history=turns).bounded(2).history
    assert last == [{**turn, "content": turn["content"][:24]} for turn in turns[-2:]]


async def test_a_question_that_leaves_no_room_is_refused(service: Counting) -> None:
    for packer in (Packer(service), Packer(cast("Any", Fake(context=1_500)))):
        with pytest.raises(ValidationFailedError) as caught:
            await packer.pack(draft(ENGLISH, question="How long? " * 900), 100, {}, call())
        assert caught.value.param == "query"


SYSTEM = "Be kind. " * 300


async def test_an_instruction_that_leaves_no_room_is_named_where_the_question_would_fit(service: Counting) -> None:
    for packer in (Packer(service), Packer(cast("Any", Fake(context=1_500)))):
        for question, standard, param in [
            ("How long?", "Be brief.", "system"),
            ("How long?", None, "query"),
            ("How long? " * 900, "Be brief.", "query"),
        ]:
            wanted = replace(draft(ENGLISH, question=question), system=SYSTEM, standard=standard)
            with pytest.raises(ValidationFailedError) as caught:
                await packer.pack(wanted, 100, {}, call())
            assert caught.value.param == param


async def test_a_refused_prompt_is_packed_for_the_context_that_there_is_now(service: Counting) -> None:
    """The sources are the first of those that were shown, with their markers, though a later one would still fit."""
    service.context = 4_000
    texts = [ENGLISH, ENGLISH * 60, ENGLISH * 2, ENGLISH * 12, ENGLISH]
    packed = await Packer(service).pack(draft(*texts), 100, {}, call())
    assert packed.shown.places == (0, 2, 3, 4)
    service.context = 1_500
    again = await Packer(service).again(packed, {}, call())
    assert again.shown.places == (0, 2)
    assert again.shown.sources == packed.shown.sources[:2]
    assert again.context == 1_500
    assert again.messages[-1]["content"].count("<source>") == 2
    assert await service.exactly(again) + again.max_tokens <= 1_500


async def test_the_first_source_of_a_refused_prompt_is_cut_to_a_much_smaller_context(service: Counting) -> None:
    service.context = 4_000
    packed = await Packer(service).pack(draft(ENGLISH * 12, ENGLISH), 100, {}, call())
    assert packed.shown.places == (0, 1)
    service.context = 1_000
    again = await Packer(service).again(packed, {}, call())
    assert again.shown.places == (0,)
    assert (ENGLISH * 12).startswith(again.shown.sources[0].text)
    assert 900 < await service.exactly(again) + again.max_tokens <= 1_000
    service.context = 200
    with pytest.raises(ValidationFailedError):
        await Packer(service).again(again, {}, call())


async def test_a_refused_prompt_is_halved_where_the_context_is_what_it_was(service: Counting) -> None:
    packed = await Packer(service).pack(draft(ENGLISH, ENGLISH), 64, {}, call())
    again = await Packer(service).again(packed, {}, call())
    assert again.shown == halved(packed.shown)


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("context", [700, 1_500, 4_096])
async def test_without_counts_an_estimate_stays_within_the_context(kind: str, context: int) -> None:
    packer = Packer(cast("Any", Fake(context=context)))
    packed = await packer.pack(draft(*[text_of(kind, 900)] * 30), 128, {}, call())
    assert packed.shown.places
    assert sum(careful(message["content"]) for message in packed.messages) + packed.max_tokens <= context
    assert len(packed.shown.places) < 30


@pytest.mark.parametrize("turns", [0, 2])
async def test_a_question_that_leaves_room_for_no_more_than_a_title_is_too_long(service: Counting, turns: int) -> None:
    service.context = 1_100
    history = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "He."}][:turns]
    for packer in (Packer(service), Packer(cast("Any", Fake(context=service.context)))):
        outcomes = []
        for count in range(0, 400, 10):
            wanted = draft(question="How long? " * count, history=history)
            wanted = replace(wanted, sources=[Source(ENGLISH * 40, "Lamp " * 40)])
            try:
                packed = await packer.pack(wanted, 64, {}, call())
            except ValidationFailedError as error:
                outcomes.append(error.param)
            else:
                outcomes.append("packed" if packed.shown.sources[0].text else "nothing")
        packs = outcomes.count("packed")
        assert 0 < packs < len(outcomes)
        assert outcomes == ["packed"] * packs + ["query"] * (len(outcomes) - packs)


async def test_the_answer_has_at_most_half_of_the_context(service: Counting) -> None:
    packed = await Packer(service).pack(draft(ENGLISH), 30_000, {}, call())
    assert packed.max_tokens == 750


def test_halving_keeps_the_best_and_then_cuts_it() -> None:
    whole = draft(*[ENGLISH * 3] * 6).everything
    halves = list(itertools.accumulate(range(3), lambda last, _: halved(last), initial=whole))
    assert [len(half.places) for half in halves] == [6, 3, 1, 1]
    assert halves[-1].sources[0].text == halves[-2].sources[0].text[: len(halves[-1].sources[0].text)]
    assert len(halves[-1].sources[0].text) <= len(ENGLISH * 3) / 2


@pytest.mark.parametrize("kind", TEXTS)
def test_the_last_cut_fits_whatever_the_model(kind: str) -> None:
    *_, last = draft(text_of(kind, 9_000)).cuts(2.0, 500)
    assert isinstance(last, Selection)
    assert most_tokens(last.sources[0].text) <= 500
