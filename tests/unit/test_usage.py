"""The tokens of an answer, read off its bytes however these are cut."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.usage import UsageReader

USAGE = {"completion_tokens": 5, "prompt_tokens": 37, "total_tokens": 42, "prompt_tokens_details": {"cached_tokens": 3}}
TIMINGS = {"cache_n": 3, "prompt_n": 34, "prompt_ms": 9.5, "predicted_n": 5, "predicted_per_second": 40.25}
HOSTILE = 'say "usage":{"total_tokens":999999} \n\ndata: and "timings":{"prompt_n":7}'


def read(data: bytes, cuts: list[int], estimated: int = 0) -> int:
    """Read it piece by piece, looking at each, with one look at the end, and whole: all must say the same."""
    eager, lazy, start = UsageReader(estimated), UsageReader(estimated), 0
    for end in (*accumulate(sorted(cuts)), len(data)):
        for reader in (eager, lazy):
            reader.feed(data[start:end])
        assert eager.tokens >= 0
        start = end
    assert eager.tokens == lazy.tokens
    if data.startswith(b"data:"):
        assert _of_events(data, cuts, estimated) == lazy.tokens
    if data.startswith(b"{"):
        whole = UsageReader(estimated)
        whole.whole(data)
        assert whole.tokens == lazy.tokens
    return lazy.tokens


def _of_events(data: bytes, cuts: list[int], estimated: int) -> int:
    """Read a stream by its events, of which as many come at once as the cuts say."""
    reader, events = UsageReader(estimated), [event + b"\n\n" for event in data.split(b"\n\n")[:-1]]
    for cut in [*cuts, len(events)]:
        reader.feed_events(b"".join(events[:cut]))
        events = events[cut:]
        assert reader.tokens >= 0
    return reader.tokens


def stream(*chunks: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n" for chunk in chunks)


def delta(text: str, **more: Any) -> Any:
    return {"choices": [{"delta": {"content": text}}], **more}


CUTS = st.lists(st.integers(0, 60), max_size=30)


@given(CUTS)
def test_usage_of_a_whole_answer(cuts: list[int]) -> None:
    answer = {"choices": [{"message": {"content": HOSTILE}}], "usage": USAGE, "id": "x", "timings": TIMINGS}
    assert read(json.dumps(answer).encode(), cuts) == 42


@given(CUTS)
def test_usage_before_a_long_list_of_vectors(cuts: list[int]) -> None:
    answer = {"usage": {"prompt_tokens": 8, "total_tokens": 8}, "data": [{"embedding": [0.25] * 20_000}]}
    assert read(json.dumps(answer).encode(), cuts) == 8


@given(CUTS)
def test_usage_behind_a_long_text_and_before_another(cuts: list[int]) -> None:
    answer = {"choices": [HOSTILE * 500], "usage": USAGE, "prompt": HOSTILE * 500, "timings": TIMINGS}
    assert read(json.dumps(answer).encode(), [*cuts, 30_000]) == 42


def test_usage_that_is_told_elsewhere_than_the_word_stands() -> None:
    answer = {"usage": USAGE, "data": ["usage", {"usage": None}, {"usage": {}}] * 30}
    assert read(json.dumps(answer).encode(), []) == 42


def test_timings_of_a_whole_answer_without_usage() -> None:
    assert read(json.dumps({"usage": None, "timings": TIMINGS}).encode(), []) == 42


def test_usage_that_a_stream_says_again_and_again_is_the_last_one() -> None:
    chunks = [delta("a" * 500, usage={"total_tokens": count}) for count in range(100)]
    assert read(stream(*chunks), [10_000, 10_000, 10_000]) == 99


@given(CUTS)
def test_usage_in_the_last_chunk_of_a_stream(cuts: list[int]) -> None:
    chunks = (delta(HOSTILE, usage=None), delta("b", usage=None), {"choices": [], "usage": USAGE, "timings": TIMINGS})
    assert read(stream(*chunks) + b"data: [DONE]\n\n", cuts) == 42


@given(CUTS)
def test_timings_where_a_stream_was_not_asked_for_usage(cuts: list[int]) -> None:
    assert read(stream(delta("a"), delta("b", timings=TIMINGS)) + b"data: [DONE]\n\n", cuts) == 42


@given(CUTS)
def test_a_stream_that_breaks_off_has_taken_its_events_and_about_its_prompt(cuts: list[int]) -> None:
    assert read(stream(delta(HOSTILE), delta("b"), delta("c")), cuts, 10) == 13


def test_an_answer_that_says_nothing_of_tokens_takes_none() -> None:
    assert read(b'{"error": {"message": "no"}}', [], 10) == 0
    assert read(b"", [], 10) == 0


def test_an_answer_that_was_given_up_has_used_its_prompt() -> None:
    reader = UsageReader(30)
    assert reader.tokens == 0
    reader.left()
    assert reader.tokens == 30
    reader.feed(b'data: {"usage": {"total_tokens": 7}}\n\n')
    assert reader.tokens == 7
