"""Server-sent events."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.sse import PING, Event, SSEParser, encode
from hartonomous.errors import BackendError


def parse(data: bytes) -> list[Event]:
    return SSEParser().feed(data)


def feed_all(parser: SSEParser, pieces: list[bytes]) -> list[Event]:
    return [event for piece in pieces for event in parser.feed(piece)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_of_the_standard_works(end: bytes) -> None:
    stream = end.join([b"event: delta", b"data: a", b"data: b", b"", b"data: c", b"", b""])
    assert parse(stream) == [Event("delta", "a\nb"), Event("message", "c")]


def test_fields_are_read_as_the_standard_says() -> None:
    stream = b"\xef\xbb\xbf: comment\nid: 1\nretry: 5\ndata:a\ndata:  b\ndata\nunknown: x\nevent: e\n\n"
    assert parse(stream) == [Event("e", "a\n b\n")]


def test_an_event_without_data_is_none() -> None:
    assert parse(b"event: x\n\n: ping\n\n\n\ndata: y\n\n") == [Event("message", "y")]
    assert parse(b"data:\n\n") == [Event("message", "")]


def test_an_unfinished_event_is_not_given_out() -> None:
    assert parse(b"data: [DONE]") == []
    assert parse(b"data: [DONE]\n") == []


def test_a_carriage_return_ends_the_event_at_once() -> None:
    parser = SSEParser()
    assert parser.feed(b"data: a\r\r") == [Event("message", "a")]
    assert parser.feed(b"\ndata: b\n\n") == [Event("message", "b")]


def test_broken_utf_8_is_replaced() -> None:
    assert parse(b"data: \xff\n\n") == [Event("message", "\ufffd")]


STREAM = st.lists(
    st.sampled_from(
        [b"data: ", b"data", b":", b"event: x", b"\n", b"\r", b"\r\n", "ü€😀".encode(), b"a", b"\xff", b" "]
    ),
    max_size=30,
).map(b"".join)


@given(STREAM, st.lists(st.integers(0, 80)), st.booleans())
def test_it_does_not_matter_where_the_stream_is_cut(stream: bytes, cuts: list[int], bom: bool) -> None:
    stream = (b"\xef\xbb\xbf" if bom else b"") + stream
    parser = SSEParser()
    places = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(places)]
    assert feed_all(parser, pieces) == parse(stream)
    parser = SSEParser()
    assert feed_all(parser, [bytes([byte]) for byte in stream]) == parse(stream)


@given(st.text(), st.from_regex(r"[a-z]{1,8}", fullmatch=True))
def test_what_is_encoded_is_read_again(text: str, name: str) -> None:
    text = text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "replace").decode()
    assert parse(encode(name, text.encode())) == [Event(name, text)]


def test_an_event_on_the_wire() -> None:
    assert encode("done", b"{}") == b"event: done\ndata: {}\n\n"
    assert parse(PING) == []
    with pytest.raises(ValueError, match="event name"):
        encode("a\nb", b"")


@pytest.mark.parametrize("piece", [b"x" * 600, b"data: " + b"x" * 500 + b"\n", b"event: " + b"x" * 1100])
def test_an_event_beyond_the_bound_is_an_error(piece: bytes) -> None:
    parser = SSEParser(max_bytes=1_000)
    pieces = [piece] * 3
    with pytest.raises(BackendError, match="too large"):
        feed_all(parser, pieces)


def test_the_bound_is_for_one_event_not_for_the_stream() -> None:
    parser = SSEParser(max_bytes=100)
    for _ in range(50):
        assert parser.feed(b": comment\ndata: " + b"x" * 50 + b"\n\n") == [Event("message", "x" * 50)]
    for _ in range(500):
        assert parser.feed(b": comment\n") == []
