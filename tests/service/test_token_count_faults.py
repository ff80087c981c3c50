"""What a service without a token count, or with a broken one, means for counting; and counting by a tokenizer file."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from hartonomous.errors import BackendError, BackendUnavailableError, ConfigError, DeadlineExceededError
from tests.service.application import WAIT_S, eventually
from tests.service.fault_backend import DEFAULT, Behaviour, FaultBackend, close, cut, hang, json_reply, reply, reset
from tests.service.test_token_counts import Clock, call, counting

FOREIGN: dict[str, Behaviour] = {
    "404": reply(404, b"not here"),
    "405": reply(405),
    "501": reply(501, b"<html>"),
    "vLLM": json_reply({"error": {"message": "prompt is missing"}}, 400),
    "TEI": json_reply({"error": "missing field inputs"}, 422),
    "other tokens": json_reply({"tokens": [[1, 2], [3]]}),
    "no tokens": json_reply({"count": 3}),
    "tokens in words": json_reply({"tokens": ["a", "b"]}),
    "a page": reply(200, b"<html>welcome</html>", {"Content-Type": "text/html"}),
    "a list": json_reply([1, 2, 3]),
}


@pytest.mark.parametrize("behaviour", FOREIGN.values(), ids=FOREIGN)
async def test_a_service_without_llama_cpps_tokenize_is_asked_again_after_a_while(
    embedding_url: str, behaviour: Behaviour
) -> None:
    clock = Clock()
    async with FaultBackend(upstream=embedding_url) as backend, counting(backend.url, clock) as counter:
        backend.on("/tokenize", behaviour, DEFAULT)
        assert await counter.count(["a"], call()) is None
        clock.now += 29
        assert await counter.count(["a"], call()) is None
        assert len(backend.calls("/tokenize")) == 1
        clock.now += 2
        assert await counter.count(["a"], call()) == [3]


async def test_a_service_replaced_by_one_without_it_is_noticed_at_once(embedding_url: str) -> None:
    async with FaultBackend(upstream=embedding_url) as backend, counting(backend.url) as counter:
        backend.on("/tokenize", DEFAULT, reply(404))
        assert await counter.count(["a"], call()) == [3]
        assert await counter.count(["a"], call()) is None


FAULTS: dict[str, tuple[Sequence[Behaviour], type[Exception]]] = {
    "loading": ([reply(503)], BackendUnavailableError),
    "broken": ([reply(500)] * 3, BackendError),
    "our key": ([reply(401)], BackendError),
    "too much": ([reply(413)], BackendError),
    "never an answer": ([reset()] * 3, BackendError),
    "never a whole one": ([cut(b'{"tokens": [2, 3]}', 9)] * 3, BackendError),
}


@pytest.mark.parametrize(("behaviours", "error"), FAULTS.values(), ids=FAULTS)
async def test_a_fault_is_an_error_and_never_an_estimate(
    embedding_url: str, behaviours: Sequence[Behaviour], error: type[Exception]
) -> None:
    async with FaultBackend(upstream=embedding_url) as backend, counting(backend.url) as counter:
        backend.on("/tokenize", *behaviours, DEFAULT)
        with pytest.raises(error):
            await counter.count(["a"], call())
        assert await counter.count(["a"], call()) == [3]


async def test_a_service_that_counted_a_moment_ago_and_answers_nonsense_is_at_fault(embedding_url: str) -> None:
    clock = Clock()
    async with FaultBackend(upstream=embedding_url) as backend, counting(backend.url, clock) as counter:
        backend.on("/tokenize", DEFAULT, reply(200, b'{"tokens": [2, 5'), DEFAULT)
        assert await counter.count(["a"], call()) == [3]
        with pytest.raises(BackendError):
            await counter.count(["a"], call())
        assert await counter.count(["a"], call()) == [3]
        backend.on("/tokenize", json_reply({"tokens": None}), json_reply({"tokens": None}), DEFAULT)
        clock.now += 31
        assert await counter.count(["a"], call()) is None


async def test_a_service_that_is_down_or_hangs_is_an_error(embedding_url: str) -> None:
    async with FaultBackend(upstream=embedding_url) as backend, counting(backend.url) as counter:
        backend.on("/tokenize", hang())
        with pytest.raises(DeadlineExceededError):
            await counter.count(["a"], call(0.2))
        await backend.stop()
        with pytest.raises(BackendUnavailableError):
            await counter.count(["a"], call())
        await backend.start()


async def test_a_connection_that_went_stale_costs_nobody_a_count(embedding_url: str) -> None:
    async with FaultBackend(upstream=embedding_url) as backend, counting(backend.url) as counter:
        backend.on("/tokenize", close(), DEFAULT)
        assert await counter.count(["a"], call()) == [3]


async def test_a_cancelled_count_leaves_nothing_behind(embedding_url: str) -> None:
    async with FaultBackend(upstream=embedding_url) as backend, counting(backend.url) as counter:
        backend.on("/tokenize", hang(), DEFAULT)
        task = asyncio.create_task(counter.count(["a"], call()))
        await eventually(lambda: backend.calls("/tokenize"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(backend.calls("/tokenize")[0].closed.wait(), WAIT_S)
        assert await counter.count(["a"], call()) == [3]


def write_tokenizer(path: Path) -> Path:
    """Write the tiny embedding model's tokenizer as a file, one that cuts off and fills up."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words = special + letters + ["##" + letter for letter in letters]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=10_000))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(path))
    return path


async def test_a_tokenizer_file_counts_as_the_service_does_and_asks_nobody(embedding_url: str, tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "tokenizer.json")
    texts = ["", "abc", " Two words. ", "[SEP]", "a[SEP]b", "x" * 150, "Caf\u00e9 | --- |", "a b " * 2_000]
    async with FaultBackend() as backend, counting(backend.url, tokenizer=path) as counter:
        await counter.check()
        counts = await counter.count(texts, call())
        assert await counter.count([], call()) == []
        assert backend.requests == []
    async with counting(embedding_url) as counter:
        assert counts == await counter.count(texts, call())


async def test_a_tokenizer_file_counts_the_prefix_too(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "tokenizer.json")
    async with counting("http://127.0.0.1:9", tokenizer=path, document_prefix="abc: ") as counter:
        assert await counter.count(["", "de"], call()) == [6, 8]


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"model": {"type": "Magic"}}', b"\xff\xfe"])
async def test_a_file_that_is_no_tokenizer_is_a_wrong_configuration(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    async with counting("http://127.0.0.1:9", tokenizer=path) as counter:
        with pytest.raises(ConfigError, match=r"backends\.embedding\.tokenizer: .*tokenizer\.json"):
            await counter.check()


async def test_without_a_tokenizer_file_there_is_nothing_to_check() -> None:
    async with counting("http://127.0.0.1:9") as counter:
        await counter.check()
