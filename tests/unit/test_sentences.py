"""Where sentences end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.sentences import sentences


def cut(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("One. Two! Three? Four… Five", ["One.", "Two!", "Three?", "Four…", "Five"]),
        ("Dr. Smith met Mr. J. Doe. He left.", ["Dr. Smith met Mr. J. Doe.", "He left."]),
        ("See e.g. Berlin, i.e. the city. Next.", ["See e.g. Berlin, i.e. the city.", "Next."]),
        ("It costs 4.99 or 1.000,50 now. Yes.", ["It costs 4.99 or 1.000,50 now.", "Yes."]),
        ("No. 5 is alive. No. It is dead.", ["No. 5 is alive.", "No.", "It is dead."]),
        ("See https://a.b/c?d=e.f. Then foo.bar.", ["See https://a.b/c?d=e.f.", "Then foo.bar."]),
        ('"Really?" he asked. "Yes." He left.', ['"Really?" he asked.', '"Yes."', "He left."]),
        ("(It works.) Good.", ["(It works.)", "Good."]),
        ("**Bold.** Next.", ["**Bold.**", "Next."]),
        ("It was I. Then we left.", ["It was I.", "Then we left."]),
        ("approx. 5 kg. Fine.", ["approx. 5 kg.", "Fine."]),
        ("1. Open it. Close it.\n2. Done", ["1. Open it.", "Close it.", "2. Done"]),
        ("- one\n- two\n* three\n", ["- one", "- two", "* three"]),
        ("wrapped at\nthe end of a line\nBut New", ["wrapped at\nthe end of a line", "But New"]),
        ("para one\n\nlower para", ["para one", "lower para"]),
        ("# Head\nlower text", ["# Head", "lower text"]),
        ("done.\nlower goes on", ["done.", "lower goes on"]),
        ("政府は決定した。環境\uff01本当\uff1fはい", ["政府は決定した。", "環境\uff01", "本当\uff1f", "はい"]),
        ("彼は「はい。」と言った。", ["彼は「はい。」", "と言った。"]),
        ("Das gilt z.B. Hier usw. Dort.", ["Das gilt z.B. Hier usw. Dort."]),
        ("", []),
        (" \n ", []),
        ("...", ["..."]),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, found: list[str]) -> None:
    assert cut(text) == found


@given(st.text(alphabet="aB1 .!?\n\"'*-#。[]()", max_size=60))
def test_sentences_are_spans_in_order_that_cover_the_text(text: str) -> None:
    position = 0
    for start, end in sentences(text):
        assert not text[position:start].strip()
        assert text[start:end].strip() == text[start:end] != ""
        position = end
    assert not text[position:].strip()


def test_a_long_text_without_an_end_costs_no_more_than_its_length() -> None:
    assert len(sentences("word " * 50_000)) == 1
    assert len(sentences("." * 100_000)) == 1
    sentences(" " * 50_000 + "x\n" * 20_000)
