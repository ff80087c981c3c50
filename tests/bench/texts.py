"""The documents, questions and answers of a run: twenty texts of some 800 characters, and others that begin like them.

Their words are as frequent as words are (one divided by its rank), so that most of them come again and again.
"""

from __future__ import annotations

from itertools import accumulate
from random import Random

COLLECTION = "docs"
DOCUMENTS = 20
DIMENSION = 384
MODEL = "bench-model"

_CHARACTERS = 800
_VOCABULARY = 10_000
_SYLLABLES = tuple(consonant + vowel for consonant in "bcdfghklmnprstvz" for vowel in "aeiou")
_OPENING = "Pump station {0} reports a pressure of {1} bar and a flow of {2} litres per second."
_ADVICE = "Its filter {0} is cleaned every {1} weeks with warm water, and its seal is greased afterwards."


def documents() -> list[str]:
    """Return the texts that are searched; each begins with two sentences that an answer can rest on."""
    return [_document(number) for number in range(DOCUMENTS)]


def facts(text: str) -> tuple[str, str]:
    """Return the two sentences at the beginning of a text."""
    first, second, *_ = text.split(". ")
    return first, second


def question(number: int) -> str:
    """Return a question; those of different numbers are different."""
    return f"What pressure and what flow does pump station {number} report, and how often is its filter cleaned?"


def answer(sources: list[str]) -> str:
    """Return an answer of some sixty tokens that rests on sources, with their markers."""
    said = [facts(text)[number % 2] for number, text in enumerate(sources[:3])]
    return " ".join(f"{sentence} [{marker}]." for marker, sentence in enumerate(said, 1))


def pieces(text: str) -> list[str]:
    """Return the text as a model says it, token by token."""
    return [text[start : start + 4] for start in range(0, len(text), 4)]


def retold(text: str, number: int) -> str:
    """Return another text for each number, which begins with the same two sentences."""
    return _filled(". ".join(facts(text)) + ".", Random(number))


def passage(number: int, words: int = 130) -> str:
    """Return a text of so many words that no other number has."""
    chance = Random(number)
    return " ".join(_word(chance) for _ in range(words))


def _document(number: int) -> str:
    chance = Random(number)
    opening = _OPENING.format(number, chance.randint(2, 90), chance.randint(100, 999))
    return _filled(f"{opening} {_ADVICE.format(_word(chance), chance.randint(2, 50))}", chance)


def _filled(text: str, chance: Random) -> str:
    while len(text) < _CHARACTERS:
        words = chance.choices(_WORDS, cum_weights=_FREQUENCIES, k=chance.randint(6, 14))
        text += f" {' '.join(words).capitalize()}."
    return text


def _word(chance: Random) -> str:
    return "".join(chance.choices(_SYLLABLES, k=chance.randint(2, 4)))


_WORDS = [_word(chance) for chance in [Random(0)] for _ in range(_VOCABULARY)]
_FREQUENCIES = list(accumulate(1 / rank for rank in range(1, _VOCABULARY + 1)))
