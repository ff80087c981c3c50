"""Our GGUF of a BERT computes what BERT's own formulas compute from the original files.

The reference is the encoder of Devlin et al. 2018 (arXiv:1810.04805) in NumPy, with the exact GELU of Hendrycks and
Gimpel (arXiv:1606.08415), over a random model in Hugging Face's format; llama.cpp computes from the converted file.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from hartonomous.trial.convert import convert_bert, word_piece
from tests.llama import LlamaServer

Array = NDArray[np.float64]

CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 32,
    "intermediate_size": 64,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "type_vocab_size": 2,
}
LETTERS = string.ascii_lowercase
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *("##" + letter for letter in LETTERS), "##ing"]
SENTENCE = "we are running"
PIECES = ["[CLS]", "w", "##e", "a", "##r", "##e", "r", "##u", "##n", "##n", "##ing", "[SEP]"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT as Hugging Face stores it."""
    folder = tmp_path_factory.mktemp("original")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    save_file(_random_tensors(), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def converted_url(original: Path) -> Iterator[str]:
    target = original / "converted.gguf"
    convert_bert(original, target, "random")
    with LlamaServer("embedding", target) as server:
        yield server.url


async def test_llama_cpp_finds_the_word_pieces(converted_url: str) -> None:
    answer = await _post(f"{converted_url}/tokenize", {"content": SENTENCE, "add_special": True})
    assert answer["tokens"] == [VOCABULARY.index(piece) for piece in PIECES]


async def test_llama_cpp_computes_the_embedding_that_the_formulas_give(converted_url: str, original: Path) -> None:
    answer = await _post(f"{converted_url}/v1/embeddings", {"input": SENTENCE})
    reference = _encode(original, [VOCABULARY.index(piece) for piece in PIECES])
    assert float(np.dot(answer["data"][0]["embedding"], reference)) > 0.9999


async def test_the_hyperparameters_reach_llama_cpp(converted_url: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{converted_url}/v1/models") as response:
        meta = (await response.json())["data"][0]["meta"]
    assert (meta["n_embd"], meta["n_ctx_train"], meta["n_vocab"]) == (32, 64, len(VOCABULARY))


@pytest.mark.parametrize(
    ("token", "piece"), [("go", "\u2581go"), ("##ing", "ing"), ("[SEP]", "[SEP]"), ("[", "\u2581["), ("##", "")]
)
def test_word_pieces_are_written_as_llama_cpp_reads_them(token: str, piece: str) -> None:
    assert word_piece(token) == piece


def test_a_model_that_is_no_plain_bert_is_refused(original: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "hidden_act": "relu"}))
    with pytest.raises(ValueError, match="hidden_act is 'relu', expected 'gelu'"):
        convert_bert(tmp_path, tmp_path / "x.gguf", "x")


async def _post(url: str, body: dict[str, Any]) -> Any:
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        assert answer.status == 200
        return await answer.json()


def _random_tensors() -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(7)
    width, inner = 32, 64

    def noise(*shape: int) -> NDArray[np.float32]:
        return (random.standard_normal(shape) * 0.3).astype(np.float32)

    tensors = {
        "embeddings.word_embeddings.weight": noise(len(VOCABULARY), width),
        "embeddings.position_embeddings.weight": noise(64, width),
        "embeddings.token_type_embeddings.weight": noise(2, width),
        "embeddings.LayerNorm.weight": 1 + noise(width),
        "embeddings.LayerNorm.bias": noise(width),
        "pooler.dense.weight": noise(width, width),
    }
    shapes = {
        "attention.self.query": (width, width),
        "attention.self.key": (width, width),
        "attention.self.value": (width, width),
        "attention.output.dense": (width, width),
        "intermediate.dense": (inner, width),
        "output.dense": (width, inner),
    }
    for layer in range(2):
        for name, shape in shapes.items():
            tensors[f"encoder.layer.{layer}.{name}.weight"] = noise(*shape)
            tensors[f"encoder.layer.{layer}.{name}.bias"] = noise(shape[0])
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            tensors[f"encoder.layer.{layer}.{name}.weight"] = 1 + noise(width)
            tensors[f"encoder.layer.{layer}.{name}.bias"] = noise(width)
    return tensors


class _Bert:
    """The forward pass, a line a formula."""

    def __init__(self, tensors: dict[str, Array]) -> None:
        self._tensors = tensors

    def encode(self, tokens: list[int]) -> Array:
        embeddings = self._tensors["embeddings.word_embeddings.weight"][tokens]
        positions = self._tensors["embeddings.position_embeddings.weight"][: len(tokens)]
        hidden = embeddings + positions + self._tensors["embeddings.token_type_embeddings.weight"][0]
        hidden = self._norm("embeddings.LayerNorm", hidden)
        for layer in range(2):
            hidden = self._block(f"encoder.layer.{layer}.", hidden)
        pooled = hidden.mean(axis=0)
        unit: Array = pooled / np.linalg.norm(pooled)
        return unit

    def _block(self, prefix: str, hidden: Array) -> Array:
        attended = self._linear(prefix + "attention.output.dense", self._attention(prefix, hidden))
        hidden = self._norm(prefix + "attention.output.LayerNorm", hidden + attended)
        inner = _gelu(self._linear(prefix + "intermediate.dense", hidden))
        return self._norm(prefix + "output.LayerNorm", hidden + self._linear(prefix + "output.dense", inner))

    def _attention(self, prefix: str, hidden: Array) -> Array:
        heads, size = 4, 8
        query, key, value = (
            self._linear(f"{prefix}attention.self.{name}", hidden).reshape(-1, heads, size).swapaxes(0, 1)
            for name in ("query", "key", "value")
        )
        scores = np.exp(query @ key.swapaxes(1, 2) / math.sqrt(size))
        weights = scores / scores.sum(axis=-1, keepdims=True)
        mixed: Array = (weights @ value).swapaxes(0, 1).reshape(-1, heads * size)
        return mixed

    def _linear(self, name: str, values: Array) -> Array:
        result: Array = values @ self._tensors[f"{name}.weight"].T + self._tensors[f"{name}.bias"]
        return result

    def _norm(self, name: str, values: Array) -> Array:
        centred = values - values.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt(centred.var(axis=-1, keepdims=True) + 1e-12)
        result: Array = scaled * self._tensors[f"{name}.weight"] + self._tensors[f"{name}.bias"]
        return result


def _gelu(values: Array) -> Array:
    result: Array = values * 0.5 * (1 + np.vectorize(math.erf)(values / math.sqrt(2)))
    return result


def _encode(folder: Path, tokens: list[int]) -> Array:
    from safetensors.numpy import load_file

    tensors = load_file(folder / "model.safetensors")
    return _Bert({name: values.astype(np.float64) for name, values in tensors.items()}).encode(tokens)
