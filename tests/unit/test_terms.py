"""Words, numbers, names and codes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.terms import terms
from hartonomous.core.words import Term


def hard(sentence: str) -> set[str]:
    return {term.forms[0] for term in terms(sentence) if term.hard}


def same(one: str, other: str) -> bool:
    """Tell whether every term of one text has a form in common with a term of the other."""
    forms = {form for term in terms(other) for form in term.forms}
    return all(set(term.forms) & forms for term in terms(one))


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("It has 3 modes.", {"3"}),
        ("The HX-200 is here.", {"hx200"}),
        ("Set max_tokens, maxTokens or config.yaml.", {"maxtokens", "config.yaml"}),
        ("It was built in Ulm by NATO.", {"ulm", "nato"}),
        ("Ulm has it.", set()),
        ("Size: Small or large.", set()),
        ("He has three of them.", {"3"}),
        ("He has one or two of them.", set()),
        ("1. Open the lid.", set()),
        ("According to Source 2, water is wet.", set()),
        ("Die Firma hat einen Sitz in der Stadt.", set()),
        ("THE WHOLE LINE IS LOUD", set()),
        ("It runs on 2024-11-04 at 10:30.", {"2024", "2024-11-04", "10:30"}),
    ],
)
def test_numbers_names_and_codes_are_hard(sentence: str, found: set[str]) -> None:
    assert hard(sentence) == found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("weighs", "weighing"),
        ("HX200", "the hx-200"),
        ("hx_200", "HX-200's"),
        ("1,000", "1000"),
        ("1.000", "1000"),
        ("4.7 million", "4,700,000 million"),
        ("3.0", "3"),
        ("eight", "8"),
        ("30-day", "30 days"),
        ("10ms", "10 ms"),
        ("Maria's", "Maria"),
        ("11/04/2024", "2024-11-04"),
        ("限速", "公路上实行限速"),
    ],
)
def test_what_means_the_same_has_a_form_in_common(one: str, other: str) -> None:
    assert same(one, other)


@pytest.mark.parametrize(
    ("one", "other"), [("3", "30"), ("3.5", "35"), ("HX-200", "HX-200B"), ("1.5", "1.50.1"), ("Keller", "Kellner")]
)
def test_what_differs_has_none(one: str, other: str) -> None:
    assert not same(one, other)


def test_a_number_knows_its_unit() -> None:
    units = [term.unit for term in terms("weighs 40 kg, costs 5, lasts 3 to 4 days") if term.number]
    assert units == ["kg", None, "day", "day"]


def test_a_number_has_no_unit_that_another_number_counts() -> None:
    units = [term.unit for term in terms("at most three within 24 hours, five of 14 services") if term.number]
    assert units == [None, "hour", "servic", "servic"]


def test_function_words_are_no_terms() -> None:
    assert terms("It is the one of them that we have.") == [Term(("1",), hard=False, number=True)]
    assert terms("") == []


@given(st.text(max_size=60))
def test_any_text_has_terms_with_forms(text: str) -> None:
    assert all(term.forms and all(term.forms) for term in terms(text))
