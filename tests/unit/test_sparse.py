from __future__ import annotations

import pytest

from hartonomous.clients.sparse import Bm25Encoder, languages
from hartonomous.errors import ConfigError


def test_words_of_one_stem_have_one_index_and_stop_words_none() -> None:
    encoder = Bm25Encoder("english")
    assert encoder.query("the houses")[0] == encoder.query("a house")[0]
    assert len(encoder.query("the houses")[0]) == 1


def test_a_question_weighs_each_word_once() -> None:
    assert Bm25Encoder("english").query("valve valve pump")[1] == [1.0, 1.0]


def test_a_word_that_comes_more_often_weighs_more_in_a_document() -> None:
    encoder = Bm25Encoder("english")
    weights = dict(zip(*encoder.document("valve valve pump"), strict=True))
    assert weights[encoder.query("valve")[0][0]] > weights[encoder.query("pump")[0][0]]


def test_indices_are_ascending_and_unique() -> None:
    """Also where two words share a hash: among 400,000 some do."""
    indices, values = Bm25Encoder("english").document(" ".join(f"w{number}" for number in range(400_000)))
    assert indices == sorted(set(indices))
    assert len(values) == len(indices) < 400_000


@pytest.mark.parametrize("text", ["", "   ", "the of and", "?!"])
def test_a_text_without_words_has_an_empty_vector(text: str) -> None:
    assert Bm25Encoder("english").document(text) == ([], [])
    assert Bm25Encoder("english").query(text) == ([], [])


def test_an_unknown_language_is_refused_with_the_names_of_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"unknown language 'klingon': expected one of arabic, .*english, .*turkish"):
        Bm25Encoder("klingon")


@pytest.mark.parametrize("language", languages())
def test_every_language_that_is_named_can_be_used(language: str) -> None:
    assert Bm25Encoder(language).document("pump")[0]


def test_the_stemmer_is_the_languages_own() -> None:
    german, english = Bm25Encoder("german"), Bm25Encoder("english")
    assert german.query("Häuser")[0] == german.query("Haus")[0]
    assert english.query("Häuser")[0] != english.query("Haus")[0]


def test_an_encoder_is_made_once_for_a_language() -> None:
    assert Bm25Encoder.for_language("english") is Bm25Encoder.for_language("english")
