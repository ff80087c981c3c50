"""Words are read once, and what a text's forms are is the same however they are asked for."""

from __future__ import annotations

import pytest

from hartonomous.core.chunks import FORMS
from hartonomous.core.terms import forms_in, terms
from hartonomous.core.words import Readings

TEXTS = [
    "The pump weighs 40 kg, and costs 1,200 Swiss francs in Ulm.",
    "Its iPhone works with the QdrantClient; max_retries is 3 by default.",
    "According to Anna Weber, 5 million people in Lyon pay twenty-five euros per month.",
    "Die Pumpe HX-200 wiegt 40 kg (minus 5 °C), seit 12. März 2021.",
    "# Prices\n\n- client-side timeouts\n- `code` isn't Nortex's\n\nSee Source 3.",
    "日本語の文です。これは40kgです。",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_texts_forms_are_those_of_its_terms(text: str) -> None:
    assert forms_in(text) == {form for term in terms(text) for form in (*term.forms, *term.implied)}


@pytest.mark.parametrize(
    "text",
    [
        "Anna Weber, of Ulm, leads the NATO office (in Brussels) and its iPhone users.",
        "Its filter isn't cleaned with warm water: the company's seals would be damaged!",
        "Kilometres and hours are units; weights, sold and built are irregular.",
    ],
)
def test_where_all_chunks_tell_their_forms_these_are_the_sentences(text: str) -> None:
    told = [forms for chunk in text.split() if (forms := FORMS[chunk]) is not None]
    assert len(told) == len(text.split())
    assert {form for forms in told for form in forms} == {form for term in terms(text) for form in term.forms}


def test_a_word_that_depends_on_what_stands_beside_it_tells_no_forms() -> None:
    assert [FORMS[chunk] for chunk in ("40", "kg,", "francs", "client-side", "three", "`code`")] == [
        None,
        ("kg",),
        None,
        None,
        None,
        None,
    ]


def test_readings_keep_no_more_than_they_may_and_what_is_asked_for_stays() -> None:
    read: list[str] = []

    def reading(word: str) -> int:
        read.append(word)
        return len(word)

    readings = Readings(reading, most=8)
    for number in range(100):
        assert readings["often"] == 5
        assert readings[f"{number}"] == len(f"{number}")
    assert read.count("often") == 1
    assert len(readings) + len(readings._older) <= 8
    assert readings["x" * 65] == readings["x" * 65] == 65
    assert read.count("x" * 65) == 2  # as long as a text may be
    assert readings["水" * 9] == readings["水" * 9] == 9
    assert read.count("水" * 9) == 2  # a term for each character
