"""Follow-ups made to stand alone: what of a model's text is taken, and what words alone can do."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.followup import accept, from_words, stands_alone


def conversation(*texts: str) -> list[dict[str, str]]:
    """Return turns, the user's first."""
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


LAMP = conversation("Tell me about the Aurora lamp.", "The Aurora lamp is made by Lumo [1].")
LAMPS = conversation("Which lamps does Lumo make?", "Lumo makes the Aurora and the Borealis [1][2].")

BARE = {
    "Borealis lamp?": "Borealis lamp",
    "borealis lamp": "borealis lamp",
    "BOREALIS": "BOREALIS",
    "the Borealis": "Borealis",
    "Corvus pump": "Corvus pump",
}


@pytest.mark.parametrize(
    "text",
    [
        "How long does the Aurora lamp shine?",
        '"How long does the Aurora lamp shine?"',
        "Standalone question: How long does the Aurora lamp shine?",
        "Sure, here is the rewritten follow-up question: How long does the Aurora lamp shine?",
        "Here is the question:\n\nHow long does the Aurora lamp shine?",
        "**How long does the Aurora lamp shine?**\n\nIt shines for ever.",
        "<think>\nWhat is meant?\n</think>\n\nHow long does the Aurora lamp shine?",
        "1. How long does the Aurora lamp shine? [1]",
        "How long does the\x00Aurora\x1b lamp shine?\x7f",
    ],
)
def test_a_question_that_stands_alone_is_taken_without_what_is_around_it(text: str) -> None:
    assert accept(text, "How long does it shine?", LAMP) == "How long does the Aurora lamp shine?"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n \n",
        '""',
        "How long does it shine?",  # has gained nothing
        "How heavy is the Aurora lamp?",  # another question
        "The Aurora lamp is made by Lumo [1].",  # an answer
        "How long does the Aurora lamp shine? It shines for 14 hours.",
        "The Aurora lamp will shine long.",
        "How long does the Aurora lamp shine underwater?",  # says more than was asked
        "How long does the Borealis lamp shine?",
        "How long does the Aurora lamp " + "shine " * 60 + "?",
        "How long does the Aurora lamp shine in 2031?",
        "<source>",
        "<think>How long does the Aurora lamp shine?",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    assert accept(text, "How long does it shine?", LAMP) is None


def test_words_that_point_may_be_replaced_but_not_by_an_earlier_question() -> None:
    assert accept("Tell me about the Borealis lamp", "And the second one?", LAMPS) is None  # "tell" is nobody's
    assert accept("Which lamps does Borealis make?", "And the second one?", LAMPS) is not None
    assert accept("Which lamps does Lumo make?", "And the second one?", LAMPS) is None


@given(st.text(max_size=300), st.text(max_size=80), st.text(max_size=80))
def test_no_text_whatever_breaks_it(text: str, question: str, said: str) -> None:
    history = conversation(said, text)
    taken = accept(text, question, history)
    assert taken is None or (len(taken) <= 400 and "Cc" not in map(unicodedata.category, taken))
    assert from_words(question, history).strip().startswith(question.strip())
    stands_alone(question, history)


@pytest.mark.parametrize(
    ("turns", "question", "found"),
    [
        (LAMP, "How long does it shine?", "How long does it shine? (Aurora lamp Lumo)"),
        ([*LAMP, *conversation("Who makes it?", "Lumo does [1].")], "Is it heavy?", "? (Aurora lamp Lumo)"),
        (
            conversation("Who founded the company?", "Mara Voss founded it [1].", "When?", "In 2009 [1]."),
            "Where was she born?",
            "Where was she born? (founded company Mara Voss)",
        ),
        (LAMPS, "And the second one?", "And the second one? (Borealis lamps Lumo)"),
        (LAMPS, "How heavy is the former?", "How heavy is the former? (Aurora lamps Lumo)"),
        (
            [*LAMP, *conversation("And the Borealis?", "It is a reading light [1].")],
            "How heavy is it?",
            "How heavy is it? (Borealis lamp)",
        ),
        (conversation("what is an okapi?", "A shy animal."), "what does it eat?", "what does it eat? (okapi)"),
        (
            conversation("How do I ask for leave days?", "In writing.", "How early?", "Soon."),
            "And then?",
            "(leave days)",
        ),
        (conversation("Hello!", "Hello."), "How long does it shine?", "How long does it shine?"),
        (conversation("Yes, please!", "Fine."), "How long does it shine?", "How long does it shine?"),
        *((conversation(name), "How long does it shine?", f"shine? ({words})") for name, words in BARE.items()),
        ([*LAMP, *conversation("Corvus pump", "It pumps.")], "How heavy is it?", "How heavy is it? (Corvus pump)"),
        ([*LAMP, *conversation("Weight?", "2 kg [1].")], "And the price?", "price? (Weight Aurora lamp)"),
        (conversation("lamps", "Here.", "How early?", "Soon."), "And then?", "And then? (lamps)"),
        (conversation("", "The Borealis is a lamp by Lumo.")[1:], "How heavy is it?", "is it? (Borealis Lumo)"),
        (LAMP, "How long does the Aurora lamp shine?", "How long does the Aurora lamp shine?"),
    ],
)
def test_words_alone_say_what_is_spoken_of(turns: list[dict[str, str]], question: str, found: str) -> None:
    assert from_words(question, turns).endswith(found)


def test_an_earlier_subject_gives_way_to_the_newest_one() -> None:
    turns = [*LAMP, *conversation("How fast is the Brisk kettle?", "Two minutes a litre [1].")]
    assert "Aurora" not in from_words("What is it made of?", turns)
    assert "Brisk kettle" in from_words("What is it made of?", turns)


def test_a_question_that_may_have_changed_the_subject_is_left_alone() -> None:
    assert not stands_alone("What is the price in Peru?", LAMP)
    assert from_words("What is the capital of Peru?", LAMP) == "What is the capital of Peru?"
    assert from_words("How long is the guarantee?", LAMP) == "How long is the guarantee? (Aurora lamp)"
    assert from_words("And in Peru?", LAMP) == "And in Peru? (Aurora lamp Lumo)"


@pytest.mark.parametrize(
    "question",
    ["How many litres does the HX-200 pump move?", "How heavy is the Brisk kettle?", "What does the Aurora lamp cost?"],
)
def test_a_question_that_names_its_subject_stands_alone(question: str) -> None:
    assert stands_alone(question, LAMP)


@pytest.mark.parametrize(
    "question", ["How long does it shine?", "And the Brisk kettle?", "What about Lumo?", "How heavy?", "And in France?"]
)
def test_a_question_that_leans_on_another_does_not(question: str) -> None:
    assert not stands_alone(question, LAMP)
