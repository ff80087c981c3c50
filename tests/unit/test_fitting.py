"""Pairs of question and text cut to the room of a model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.fitting import beginning, fit_pairs
from hartonomous.core.tokens import estimate_tokens, most_tokens

TEXTS = st.text(st.characters(codec="utf-8"), max_size=400) | st.lists(
    st.sampled_from(["word", "AX-7", "12.5", "\n\n", "東京都", "é"]), max_size=200
).map(" ".join)


@given(TEXTS, TEXTS, st.integers(2, 200))
def test_every_pair_fits_and_is_cut_at_its_end_alone(query: str, text: str, room: int) -> None:
    for count in (estimate_tokens, most_tokens):
        asked, (kept,) = fit_pairs(query, [text], room, count)
        assert count(asked) + count(kept) <= room
        assert query.startswith(asked)
        assert text.startswith(kept)


def test_what_fits_stays_as_it_is() -> None:
    assert fit_pairs("a question", ["a text", ""], 20, estimate_tokens) == ("a question", ["a text", ""])
    assert fit_pairs("", [], 20, estimate_tokens) == ("", [])


def test_a_long_text_keeps_most_of_the_room_and_is_cut_between_words() -> None:
    kept = beginning("several words in a row " * 500, 100, estimate_tokens)
    assert 80 <= estimate_tokens(kept) <= 100
    assert kept.split()[-1] in "several words in a row"


def test_a_long_question_leaves_half_of_the_room_to_the_texts() -> None:
    asked, (kept,) = fit_pairs("question " * 500, ["answer " * 500], 100, estimate_tokens)
    assert 40 <= estimate_tokens(asked) <= 50
    assert 40 <= estimate_tokens(kept) <= 60
