"""Token counts are those of llama.cpp's own embeddings, over several tokenizers, and chunks keep to its limits."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import gguf
import pytest
from gguf.scripts.gguf_new_metadata import MetadataDetails, copy_with_new_metadata

from hartonomous.clients.pool import Pool
from hartonomous.clients.tokenizing import TokenCounter
from hartonomous.core.access import EVERYTHING
from hartonomous.core.call import Call
from hartonomous.core.deadline import Deadline
from hartonomous.metrics import Metrics
from hartonomous.pipelines.cutting import cut_document, make_sizes, recut
from hartonomous.pipelines.documents import Document
from hartonomous.services import Address, Embedding
from tests.llama import LlamaServer, write_model
from tests.service.fault_backend import FaultBackend
from tests.trial.conftest import minilm

__all__ = ["minilm"]

# What a tokenizer may read otherwise than it looks.
TEXTS = [
    "",
    " ",
    "a",
    "abc",
    " abc ",
    "\tabc\n",
    "Two words.",
    "Gr\u00f6\u00dfe \u00c4\u00d6\u00dc",
    "cafe\u0301 na\u00efve",
    "\u6c49\u5b57\u6587\u672c\u3002",
    "\ud55c\uad6d\uc5b4",
    "\u0421\u043b\u043e\u0432\u043e",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "[SEP]",
    "[CLS] x [SEP]",
    "a[SEP]b",
    "[sep]",
    "[PAD]",
    "[UNK]",
    "[MASK]",
    "</s>",
    "a</s> b",
    "<s>",
    "<unk>",
    "<pad>",
    *("<0x0A>", "##a", "\u2581a", "a\u2581b", "\x00", "a\x00b", "\u200b", "\ufeffa", "\u00ad", "x" * 150, "\ufdfa"),
    *("9f86d081884c7d65", "| --- | --- |", "```python\nx = 1\n```", "a\r\nb", "\n\n\n", "https://example.org/a?b=c#d"),
]
PIECES = [*"abcxyz ABC 0123456789 .,;:!?-_#/()", "\n", "  ", *TEXTS[2:30]]


def random_texts(count: int) -> list[str]:
    chance = random.Random(3)
    return ["".join(chance.choices(PIECES, k=chance.randint(1, 12)))[:60] for _ in range(count)]


def call(seconds: float = 60.0) -> Call:
    return Call("test", Deadline(seconds), grant=EVERYTHING)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def counting(url: str, clock: Clock | None = None, **settings: Any) -> AsyncIterator[TokenCounter]:
    """Make a counter for the service at `url`."""
    config = Embedding(urls=(Address(url=url),), **settings)
    pool = Pool("embedding", (url,), config, Metrics())
    try:
        yield TokenCounter(pool, config, clock) if clock else TokenCounter(pool, config)
    finally:
        await pool.close()


async def embedded(url: str, texts: Sequence[str]) -> int:
    """Return the tokens that the service counts when it embeds the texts."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/embeddings", json={"input": texts}) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return int((await answer.json())["usage"]["prompt_tokens"])


def write_bytes_model(path: Path, *, space_first: bool) -> None:
    """Write the tiny Llama as an embedding model: BOS, no EOS, a token a byte."""
    source = gguf.GGUFReader(write_model("generative", path.parent))
    writer = gguf.GGUFWriter(path, "llama")
    kinds = gguf.GGUFValueType
    changes = {
        "llama.pooling_type": MetadataDetails(kinds.UINT32, int(gguf.PoolingType.MEAN)),
        "tokenizer.ggml.add_space_prefix": MetadataDetails(kinds.BOOL, space_first),
    }
    copy_with_new_metadata(source, writer, changes, [])


@pytest.fixture(scope="module", params=["wordpiece", "bytes", "bytes behind a space"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An embedding service of each kind of tokenizer."""
    if request.param == "wordpiece":
        yield request.getfixturevalue("embedding_url")
        return
    path = tmp_path_factory.mktemp("bytes") / "tiny.gguf"
    write_bytes_model(path, space_first=request.param != "bytes")
    with LlamaServer("embedding", path) as server:
        yield server.url


async def test_the_count_of_a_text_is_what_embedding_it_costs(served: str) -> None:
    async with counting(served) as counter:
        counts = await counter.count(TEXTS, call())
    assert counts == [await embedded(served, [text]) for text in TEXTS]


async def test_5000_random_texts_cost_what_was_counted(served: str) -> None:
    texts = random_texts(5_000)
    async with counting(served) as counter:
        counts = await counter.count(texts, call())
    assert counts is not None
    for start in range(0, len(texts), 20):
        assert sum(counts[start : start + 20]) == await embedded(served, texts[start : start + 20])


async def test_the_prefix_of_documents_is_counted(served: str) -> None:
    async with counting(served, document_prefix="passage: ", query_prefix="query, much longer: ") as counter:
        counts = await counter.count(["a", " b", "[SEP]"], call())
    assert counts == [await embedded(served, ["passage: " + text]) for text in ("a", " b", "[SEP]")]


@pytest.mark.models
async def test_the_trials_own_model_counts_exactly(minilm: str) -> None:
    texts = random_texts(400)
    async with counting(minilm) as counter:
        assert await counter.count(TEXTS, call()) == [await embedded(minilm, [text]) for text in TEXTS]
        counts = await counter.count(texts, call())
    assert counts is not None
    for start in range(0, len(texts), 20):
        assert sum(counts[start : start + 20]) == await embedded(minilm, texts[start : start + 20])


HOSTILE = {
    "hexadecimal": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" * 60,
    "chinese": "\u653f\u5e9c\u5468\u56db\u51b3\u5b9a\u6682\u4e0d\u5728\u9ad8\u901f\u516c\u8def\u4e0a\u3002" * 200,
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f600" * 200,
    "ligatures": "\ufdfa\ufdfa " * 200,
    "special": "a[SEP]</s><s>" * 300,
    "markdown": "# A long heading of a guide\n\n## Another one below\n\n" + "Some plain words in a sentence. " * 300,
    "code": "```\n" + "if (x[i] == {1: [2, 3]}) { y += z->w; }\n" * 100 + "```\n",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("prefix", ["", "passage: "])
async def test_no_chunk_is_over_the_limit_of_the_service(served: str, text: str, prefix: str) -> None:
    for limit in (40, 512):
        async with counting(served, document_prefix=prefix) as counter:
            sizes = make_sizes(limit, 8, 512, prefix)
            document = Document(0, text, "a", "markdown")
            _, texts = await cut_document(document, sizes, partial(counter.count, call=call()))
        costs = [await embedded(served, [prefix + one]) for one in texts]
        assert max(costs) <= limit


async def refused(url: str, texts: Sequence[str]) -> list[int]:
    """Return the indices of the texts that the service calls too long."""
    found = []
    async with aiohttp.ClientSession() as session:
        for index, text in enumerate(texts):
            async with session.post(f"{url}/v1/embeddings", json={"input": [text]}) as answer:
                if answer.status != 200:
                    assert "larger than" in await answer.text()
                    found.append(index)
    return found


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
async def test_without_a_count_what_is_refused_is_cut_again_until_it_is_taken(served: str, text: str) -> None:
    async def unknown(texts: Sequence[str]) -> None:
        """Count nothing, as a service without `/tokenize`."""

    document, sizes = Document(0, text, "a", "markdown"), make_sizes(512, 32, 512)
    made = await cut_document(document, sizes, unknown)
    rounds = 0
    while too_long := await refused(served, made[1]):
        made = await recut(document, sizes, unknown, made, too_long)
        rounds += 1
    assert rounds <= 4
    covered = {place for chunk in made[0] for place in range(chunk.start, chunk.end)}
    assert all(place in covered or char.isspace() for place, char in enumerate(text))


async def test_many_texts_take_few_calls_and_a_long_one_its_own(embedding_url: str) -> None:
    async with FaultBackend(upstream=embedding_url) as backend, counting(backend.url) as counter:
        assert await counter.count(["a b"] * 600, call()) == [4] * 600
        assert len(backend.calls("/tokenize")) == 3
        assert await counter.count(["a " * 150_000, "b", "a " * 150_000], call()) == [150_002, 3, 150_002]
        assert len(backend.calls("/tokenize")) == 5
        assert max(len(request.body) for request in backend.calls("/tokenize")) < 600_000
        assert await counter.count([], call()) == []


async def test_a_text_that_makes_the_separator_is_counted_rightly(embedding_url: str) -> None:
    async with FaultBackend(upstream=embedding_url) as backend, counting(backend.url) as counter:
        texts = ["a", "[PAD][PAD][PAD][UNK]", "", "b[PAD][PAD][PAD]\u6c49", "[PAD]", "[PAD][PAD]"]
        assert await counter.count(texts, call()) == [3, 6, 2, 7, 3, 4]
        assert len(backend.calls("/tokenize")) == 1 + len(texts)
        assert await counter.count(["a[PAD][PAD][PAD]", "[UNK]", "[PAD]"], call()) == [6, 3, 3]
        assert len(backend.calls("/tokenize")) == 2 + len(texts)
