from __future__ import annotations

import pytest

from hartonomous.core.relevance import Relevance

QUESTION = "How much does the copper kettle weigh?"
SOME, MOST, NONE = "A kettle of glass.", "The copper kettle is 940 grams.", "Tea is grown in Assam."


def holds(text: str, similarity: float | None, question: str = QUESTION) -> bool:
    return Relevance(question, min_similarity=0.3, min_words=0.6).holds(text, similarity)


@pytest.mark.parametrize(("similarity", "relevant"), [(0.31, True), (0.3, True), (0.29, False), (0.0, False)])
def test_a_similar_text_is_relevant_whatever_its_words(similarity: float, relevant: bool) -> None:
    assert holds(NONE, similarity) is relevant


@pytest.mark.parametrize(("text", "relevant"), [(MOST, True), (SOME, False), (NONE, False), ("", False)])
def test_a_text_with_most_words_of_the_question_is_relevant_whatever_its_meaning(text: str, relevant: bool) -> None:
    assert holds(text, 0.0) is relevant


@pytest.mark.parametrize(("text", "relevant"), [(MOST, True), (SOME, True), (NONE, False)])
def test_where_only_words_were_searched_half_as_many_are_enough(text: str, relevant: bool) -> None:
    assert holds(text, None) is relevant


def test_words_count_in_any_form_once_and_function_words_do_not() -> None:
    assert holds("WEIGHED: two copper kettles", 0.0)
    assert holds("weight", 0.0, "How much do weights weigh?")
    assert not holds("How much does it do? The much is the how.", 0.0)


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("Which pressure does the HX-200 take?", "HX-200: 4 bar"),
        ("Which pressure does the hx200 take?", "Table 4: HX-200, HX-210"),
        ("What does E7 mean on this washing machine?", "E4 empty. E7 pump."),
        ("Where is max_retries of the client set?", "`max_retries`: 3"),
        ("What is new in release v2.1.3 of it?", "v2.1.3 (March)"),
    ],
)
def test_a_code_that_the_question_names_makes_relevant(question: str, text: str) -> None:
    assert holds(text, 0.0, question)
    assert holds(text, None, question)


@pytest.mark.parametrize("text", ["HX-2000: 4 bar", "HX-210: 4 bar", "AHX-200", "200 bar"])
def test_another_code_does_not(text: str) -> None:
    assert not holds(text, 0.1, "Which flow rate does the HX-200 take?")


def test_a_number_alone_is_no_code() -> None:
    assert not holds("In 1998 the pump was sold.", 0.1, "Who won the football cup in 1998 and where?")


def test_of_a_long_question_twelve_words_count_where_only_words_were_searched() -> None:
    question = " ".join(f"word{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")
    four, three = "worda wordb wordc wordd", "worda wordb wordc"
    assert holds(four, None, question)
    assert not holds(three, None, question)
    assert not holds(four, 0.1, question)


def test_a_question_of_function_words_alone_is_left_to_the_similarity() -> None:
    assert holds("anything", 0.5, "What is it?")
    assert not holds("What is it?", 0.1, "What is it?")
    assert not holds("What is it?", None, "What is it?")


def test_without_limits_everything_is_relevant() -> None:
    assert Relevance("What is it?", 0.0, 0.0).holds("", 0.0)
    assert Relevance("What is it?", 0.0, 0.0).holds("", None)
