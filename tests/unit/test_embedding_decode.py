"""Embedding answers: what is right is read in order, anything else is refused with a ValueError."""

from __future__ import annotations

import json
import math
import struct
from array import array
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous import codec
from hartonomous.clients.embedding import Embedded
from hartonomous.clients.embedding import decode as decode_bytes
from hartonomous.clients.qdrant import Search, search_json

_FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6)
_VECTORS = st.integers(1, 6).flatmap(
    lambda size: st.lists(st.lists(_FLOATS, min_size=size, max_size=size).filter(any), min_size=1, max_size=5)
)


def decode(answer: Any, count: int, dimension: int | None) -> Embedded:
    """Read an answer as it comes, `NaN` and `Infinity` in it as some write them."""
    return decode_bytes(json.dumps(answer).encode(), count, dimension)


def _base64(vector: list[float]) -> str:
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _answer(vectors: list[Any], order: list[int] | None = None) -> dict[str, Any]:
    indices = order or list(range(len(vectors)))
    return {"data": [{"index": index, "embedding": vectors[index]} for index in indices]}


@given(_VECTORS, st.randoms(), st.booleans())
def test_any_order_and_either_encoding_come_back_as_they_were(
    vectors: list[list[float]], random: Any, encoded: bool
) -> None:
    order = list(range(len(vectors)))
    random.shuffle(order)
    shown = [_base64(vector) if encoded else vector for vector in vectors]
    read = decode(_answer(shown, order), len(vectors), len(vectors[0]))
    assert [list(vector) for vector in read.vectors] == vectors
    assert read.tokens == 0


def test_base64_is_little_endian_float32() -> None:
    assert list(decode(_answer(["AACAPwAAAMA="]), 1, 2).vectors[0]) == [1.0, -2.0]


def test_the_dimension_may_be_unknown_at_first() -> None:
    assert list(decode(_answer([[1, 2.5, 3]]), 1, None).vectors[0]) == [1, 2.5, 3]


def test_decimals_that_came_alone_go_to_the_store_as_they_came() -> None:
    body = b'{"data":[{"object":"embedding","embedding":[ 0.10, -2e-1,3],"index":0}]}'
    (vector,) = decode_bytes(body, 1, 3).vectors
    search = search_json(Search("dense", vector, 5), "docs")
    assert b'"query":[ 0.10, -2e-1,3],' in codec.dumps(search)
    assert list(vector) == list(array("f", [0.1, -0.2, 3]))


def test_vectors_that_came_together_do_not_keep_their_decimals() -> None:
    vectors = decode(_answer([[1.0], [2.0]]), 2, 1).vectors
    assert [type(vector) for vector in vectors] == [array, array]


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 7}, 7),
        ({"prompt_tokens": -7}, 0),
        ({"prompt_tokens": 7.5}, 0),
        ({"prompt_tokens": "7"}, 0),
        ({"prompt_tokens": True}, 0),
        ({"prompt_tokens": None}, 0),
        ({"prompt_tokens": 10**30}, 0),
        ({"prompt_tokens": 10**400}, 0),
        ({}, 0),
        (None, 0),
        ([7], 0),
        (7, 0),
    ],
)
def test_only_a_count_of_tokens_counts(usage: Any, tokens: int) -> None:
    assert decode(_answer([[1.0]]) | {"usage": usage}, 1, 1).tokens == tokens


@pytest.mark.parametrize(
    "vector",
    [
        [0.0, 0.0],
        [1.0],
        [1.0, 2.0, 3.0],
        [],
        [math.nan, 1.0],
        [1e39, 1.0],
        [math.inf, 1.0],
        [math.inf, -math.inf],
        [None, 1.0],
        [True, 1.0],
        ["1", 1.0],
        [[1.0, 2.0]],
        None,
        7,
        {"0": 1.0},
        "",
        "AAA=",
        "AACAPw==",
        "not base64 at all",
        "AACAPwAAgD\u00e9=",
        "AADAfwAAgD8=",  # NaN, 1
        "AACAfwAAgD8=",  # infinity, 1
        "AAAAAAAAAAA=",
    ],
)
def test_a_vector_that_is_none_is_refused(vector: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(_answer([vector]), 1, 2)


def test_a_single_vector_needs_no_index_and_several_do() -> None:
    assert list(decode({"data": [{"embedding": [1.0]}]}, 1, 1).vectors[0]) == [1.0]
    with pytest.raises(ValueError, match="bad index"):
        decode({"data": [{"embedding": [1.0]}, {"embedding": [2.0]}]}, 2, 1)


@pytest.mark.parametrize("order", [[0], [0, 0], [0, 2], [0, -1], [0, 1, 1], [0, "1"], [0, True], [0, 1.0], [0, None]])
def test_an_index_missing_twice_or_out_of_range_is_refused(order: list[Any]) -> None:
    data = [{"index": index, "embedding": [1.0]} for index in order]
    with pytest.raises(ValueError, match=r"."):
        decode({"data": data}, 2, 1)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["data", "index", "embedding", "usage", "prompt_tokens"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(_JSON, st.integers(0, 3), st.none() | st.integers(1, 3))
def test_whatever_json_comes_is_vectors_or_a_refusal(answer: Any, count: int, dimension: int | None) -> None:
    try:
        read = decode(answer, count, dimension)
    except ValueError:
        return
    assert len(read.vectors) == count
    assert all(math.isfinite(number) for vector in read.vectors for number in vector)


def test_an_answer_that_is_nested_too_deeply_is_refused() -> None:
    deep = b'{"data":[{"index":0,"embedding":[1.0]}],"usage":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(ValueError, match="nested"):
        decode_bytes(deep, 1, 1)


def test_what_the_service_calls_its_model_is_told() -> None:
    assert decode(_answer([[1.0]]) | {"model": "minilm"}, 1, 1).model == "minilm"
    assert decode(_answer([[1.0]]), 1, 1).model is None
