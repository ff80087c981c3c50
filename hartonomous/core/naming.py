"""Which words of a text are names or codes, told from what stands around them: capitals, hyphens, backticks, signs.

Asked for few words: those in lower case have the same terms wherever they stand (`hartonomous.core.chunks`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import accumulate

from msgspec import structs

from hartonomous.core.lexicon import (
    ADJECTIVE,
    AFTER_NAME,
    ARTICLES,
    BEFORE_ADJECTIVES,
    COMMON_END,
    CONJUNCTIONS,
    COUNTING,
    GERMAN,
    LEGAL_FORMS,
    NO_NAMES,
    STOPWORDS,
    VERBAL,
)
from hartonomous.core.quantities import CURRENCIES, is_negative, symbol
from hartonomous.core.words import (
    COMPOUND_NUMBER,
    DIGIT,
    NAME,
    PERSON,
    PLAIN,
    TOKEN,
    Readings,
    Term,
    classified,
    code,
    stem,
)

_COMMON = STOPWORDS | NO_NAMES
_APOSTROPHE = re.compile(r"['’]")  # noqa: RUF001
PAUSE = re.compile(r"[,;:()|.!?\n]")
"""What stands between two words that do not belong together has one of these."""
_STARTERS = ':;"“„«(*#|—–`'  # noqa: RUF001

BREAK = Term((), hard=False)
"""Stands where a number and what follows do not belong together."""
APART = Term((), hard=False, lead="apart")
"""Stands for a preposition before a number: what it counts is not what the number before counts."""
JOINT = Term((), hard=False, lead="joint")
"""Stands for a conjunction: what is behind it is a little further away."""


class Context:
    """The words of a text (`words`) and what stands before each of them (`gaps`), one more of these for the end."""

    __slots__ = ("_is_german", "_loud", "_pieces", "_starts", "_text", "_words", "gaps")

    def __init__(self, text: str) -> None:
        pieces = TOKEN.split(text)
        self._text = text
        self._pieces = pieces
        self.gaps, self._words = pieces[::2], pieces[1::2]
        self._loud = text.isupper()
        self._starts: list[int] = []
        self._is_german: bool | None = None

    @property
    def starts(self) -> list[int]:
        """Where each word begins; only numbers and dates ask for it."""
        if not self._starts:
            self._starts = list(accumulate(map(len, self._pieces)))[:-1:2]
        return self._starts

    @property
    def _german(self) -> bool:
        """Whether the text is German, which capitalises every noun."""
        if self._is_german is None:
            self._is_german = len(GERMAN.intersection(self._words)) * 8 > len(self._words)
        return self._is_german

    def _capital(self, place: int) -> bool:
        """Tell whether a word may be a name for its looks; not of one before the first."""
        word = self._words[place] if place < len(self._words) else ""
        return word[:1].isupper() and CAPITALS[word]

    def parts(self, place: int, gap: str | None = None) -> Sequence[Term]:
        """Return the terms of one word and what stands between it and the one before, which may be other than text."""
        word = self._words[place]
        before = self.gaps[place] if gap is None else gap
        paused = self.pause(place, before)
        if word in CONJUNCTIONS:
            return (*paused, JOINT)
        if word in COUNTING and self.number_follows(place):
            return (*paused, APART)
        if word.isalpha() and word.islower() and before[-1:] != "`":
            return (*paused, *PLAIN[word])
        return (*paused, *self._classified(place))

    @staticmethod
    def pause(place: int, gap: str) -> tuple[Term, ...]:
        """Return what stands for the marks before a word."""
        return (BREAK,) if gap != " " and place and PAUSE.search(gap) else ()

    def number_follows(self, place: int) -> bool:
        """Tell whether nothing but blanks stands between a word and a number."""
        return self.gaps[place + 1].isspace() and DIGIT.match(self._after(place)) is not None

    def _after(self, place: int) -> str:
        """Return the word behind another one, or nothing."""
        return self._words[place + 1] if place + 1 < len(self._words) else ""

    def _classified(self, place: int) -> Iterable[Term]:
        """Return the terms of one word."""
        word = self._words[place]
        if word[0].isdigit():
            return self._number(place)
        if self.gaps[place][-1:] == "°" or self._is_of_currency(place):
            return ()
        identifier = self._identifies(place)
        if identifier == "maybe":
            return (Term((code(word),), hard=False, lead="identifier", implied=tuple(map(stem, word.split("-")))),)
        if word[0].isupper():
            return self._capitalised(place, identifier=identifier == "yes")
        names = not word.islower() and not self._loud and not self._german
        return classified(word, names=names, inside=False, identifier=identifier == "yes")

    def _capitalised(self, place: int, *, identifier: bool) -> Iterable[Term]:
        """Return the terms of a word that begins with a capital."""
        word, capital = self._words[place], CAPITALS[self._words[place]]
        joined = capital and not self._loud and self._in_run(place)
        firm = capital and self._is_firm(place)
        names = not self._loud and (joined or firm or not self._german)
        inside = joined or firm or (place > 0 and self._before(place) not in _STARTERS)
        found = classified(word, names=names, inside=inside, identifier=identifier)
        return [self._named(term, place, joined, capital) for term in found]

    def _named(self, term: Term, place: int, joined: bool, capital: bool) -> Term:
        if term.kind == NAME and self._words[place].lower() in NO_NAMES:
            return structs.replace(term, kind="")
        if joined and term.kind == NAME:
            group = place - 1 if place and self._capital(place - 1) and self._touch(place) else place
            return structs.replace(term, kind=PERSON, group=group, after=self._word_before(group))
        if term.number or not capital or self._loud:
            return term
        if place:
            begins = not term.hard and self._before(place) in _STARTERS
            return structs.replace(term, after=self._word_before(place), lead="word" if begins else "")
        return term if term.hard else structs.replace(term, lead=self._lead())

    def _is_of_currency(self, place: int) -> bool:
        """Tell whether a word is a part of a unit: "Swiss francs"."""
        return self._after(place) in CURRENCIES and self._words[place][0].isupper()

    def _word_before(self, place: int) -> str:
        """Return the word in front of a token, if nothing but a blank is between and it is no article."""
        before = self._words[place - 1] if place and self._touch(place) else ""
        return "" if before in ARTICLES else before

    def _number(self, place: int) -> Iterable[Term]:
        text, word, start = self._text, self._words[place], self.starts[place]
        sign = symbol(text, start, start + len(word))
        negative = is_negative(text, start)
        found = classified(word, names=True, inside=True, identifier=False)
        return [_signed(term, sign, negative) if term.number else term for term in found] if sign or negative else found

    def _in_run(self, place: int) -> bool:
        """Tell whether two words with capitals stand side by side here, as in a person's name."""
        if place and self._capital(place - 1) and self._touch(place):
            return place > 1 or self._opens_run()
        follows = self._capital(place + 1) and self._touch(place + 1)
        return follows and (place > 0 or self._opens_run())

    def _opens_run(self) -> bool:
        """Tell whether the first word can begin a name: not "Delivery" and not a German "Weitere"."""
        word = self._words[0].lower()
        return not COMMON_END.search(word) and not (self._german and ADJECTIVE.fullmatch(word))

    def _is_firm(self, place: int) -> bool:
        """Tell whether a legal form follows: "Nortex GmbH"."""
        following = self._after(place)
        return following.lower().rstrip(".") in LEGAL_FORMS and following[:1].isupper() and self._touch(place + 1)

    def _touch(self, place: int) -> bool:
        """Tell whether nothing but a blank stands before a token."""
        return self.gaps[place] == " "

    def _before(self, place: int) -> str:
        return self.gaps[place].rstrip()[-1:] or self._words[place - 1][-1]

    def _lead(self) -> str:
        """Return how the text begins: as with a name, or with another word."""
        leads = len(self._words) > 1 and leads_as_name(self._words[0], self._words[1], touching=self._touch(1))
        return "name" if leads else "word"

    def _identifies(self, place: int) -> str:
        """Tell whether a word in lower case names something: "yes" in backticks and in front, or "maybe"."""
        word, behind = self._words[place], self.gaps[place + 1][:1]
        if behind == "`" and self.gaps[place][-1:] == "`":
            return "yes"
        if "-" not in word or not word.islower() or COMPOUND_NUMBER.fullmatch(word):
            return ""
        if place == 0:
            return "yes"
        following = self._after(place)
        alone = behind != " " or following in STOPWORDS or following in VERBAL or DIGIT.match(following) is not None
        before = self._words[place - 1].lower()
        return "maybe" if (alone or following.endswith("s")) and before not in BEFORE_ADJECTIVES else ""


def _signed(number: Term, sign: str, negative: bool) -> Term:
    """Return a number with the unit that is written as a sign, and with its own sign."""
    forms = tuple([f"-{form}" for form in number.forms]) if negative else number.forms
    return structs.replace(number, forms=forms, measures=frozenset((sign,)) if sign else frozenset())


def _is_capital(word: str) -> bool:
    """Tell whether a word that begins with a capital may be a name for its looks."""
    plain = _APOSTROPHE.split(word, maxsplit=1)[0]
    lower = plain.lower()
    return (len(plain) > 1 and not plain.isupper() and lower not in _COMMON) and DIGIT.search(word) is None


CAPITALS = Readings(_is_capital)
"""Whether a word that begins with a capital may be a name for its looks."""


def leads_as_name(word: str, following: str, *, touching: bool) -> bool:
    """Tell whether a sentence that begins with two words begins as with a name: "Nortex has", not "Patients have".

    `touching`: only a blank stands between them.
    """
    if word.endswith(("'s", "’s")):  # noqa: RUF001
        return True
    if COMMON_END.search(word.lower()) or not following[0].islower() or not touching:
        return False
    if word.endswith("s") and not following.endswith("s"):
        return False  # "Patients have"
    if following in VERBAL:
        return True
    return following not in STOPWORDS and AFTER_NAME.fullmatch(following) is not None
