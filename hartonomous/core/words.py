"""One token to its terms: a word, a number, a time, a name or a code, brought to the form in which it is compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeVar

import msgspec
from msgspec import structs

from hartonomous.core.lexicon import IRREGULAR, ROLES, SOFT_NUMBERS, STOPWORDS
from hartonomous.core.quantities import NUMBER, UNITS, WORD_NUMBERS, number_forms

# Scripts without blanks between words, and Korean, whose words change their endings: compared by pairs of characters.
_DENSE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
DENSE_RUN = re.compile(f"[{_DENSE}]+")
DIGIT = re.compile(r"[0-9]")
TOKEN = re.compile(  # a group: a text is split by it, which takes a third of the time that its matches take
    r"([0-9]+(?:[.,][0-9]+)*(?![^\W_]|[-_/:][^\W_])"
    r"|[^\W_]+(?:(?:[-_.'’/:@]|::)[^\W_]+|_+(?=[^\W_]))*)"  # noqa: RUF001
)
"""A word, a number or a code, with the marks in it."""
_QUANTITY = re.compile(r"([0-9]+(?:[.,][0-9]+)*)-?([^\W\d_]{1,3}|-[^\W\d_]+)")
_HYPHENATED_QUANTITY = re.compile(r"([0-9]+(?:[.,][0-9]+)*)-([^\W\d_]+)")
_DIGIT_GROUPS = re.compile(r"[0-9]+(?:[-/:.][0-9]+)+")
_CLOCK = re.compile(r"[0-2]?[0-9]:[0-5][0-9]")
_CAMEL = re.compile(r"[a-z][A-Z]")
_SUFFIX = re.compile(r"(?<=\w{3})(?:ings?|edly|ed|ies|es|s|ly|e|en)\Z")
_ENDINGS = frozenset(("ing", "ings", "edly", "ed", "ies", "es", "s", "ly", "e", "en"))
_LEAST_STEM = 3
_POSSESSIVE = re.compile(r"['’]s?\Z")  # noqa: RUF001
COMPOUND_NUMBER = re.compile(
    r"(?:twen|thir|for|fif|six|seven|eigh|nine)ty-(?:one|two|three|four|five|six|seven|eight|nine)"
)
_LONGEST_KNOWN = 64
_LONGEST_DENSE = 8  # of a script without blanks: each character has a term, and a run is seldom met again
_MOST_KNOWN = 1 << 14

_R = TypeVar("_R")

NAME = "name"
PERSON = "person"
CODE = "code"
IDENTIFIER = "identifier"
SYMBOL = "symbol"


class Term(msgspec.Struct, frozen=True, gc=False):
    """One term: the forms any of which makes it the same as another, and what kind it is.

    `unit` is the first content word after a number ("40 *kg*"), None where there is none; `measures` are the units and
    scales of the tables that the number has. `implied` are forms that a text with this term also answers to. `kind` is
    that of a hard term that names something (two names of one kind, a person's and a person's, are rivals), and
    `group` joins the words of one name. `lead` is "name" where a word with a capital
    begins its sentence as a name would (which common nouns do too), "word" where it begins it otherwise; "identifier"
    where a hyphenated word stands as a name would. `after` is the word in front of a capital that may be a noun's.
    """

    forms: tuple[str, ...]
    hard: bool
    number: bool = False
    unit: str | None = None
    kind: str = ""
    implied: tuple[str, ...] = ()
    measures: frozenset[str] = frozenset()
    group: int = -1
    lead: str = ""
    after: str = ""


def stem(word: str) -> str:
    """Return a word without its commonest English endings, in lower case; crude, but the same on both sides."""
    lower = word.lower()
    if lower in IRREGULAR:
        return IRREGULAR[lower]
    if not lower.isalpha():
        return _SUFFIX.sub("", lower)
    for length in (4, 3, 2, 1):  # a third of the time that the expression takes
        if len(lower) >= length + _LEAST_STEM and lower[-length:] in _ENDINGS:
            return lower[:-length]
    return lower


def classified(word: str, *, names: bool, inside: bool, identifier: bool) -> tuple[Term, ...]:
    """Return the terms of one token; `names`: capitals mean something here, `inside`: it does not begin a sentence."""
    read = _known if is_to_keep(word) else _classified
    return read(word, names, inside, identifier)


def is_to_keep(word: str) -> bool:
    """Tell whether what is read in a word may be kept: what is no word need not be, and may be as long as a text."""
    size = len(word)
    if size <= _LONGEST_DENSE or word.isascii():
        return size <= _LONGEST_KNOWN
    return size <= _LONGEST_KNOWN and DENSE_RUN.search(word) is None


def _classified(word: str, names: bool, inside: bool, identifier: bool) -> tuple[Term, ...]:
    word = _POSSESSIVE.sub("", word)
    if identifier:
        return (Term((code(word),), hard=True, kind=SYMBOL if "_" in word else IDENTIFIER),)
    if DIGIT.search(word):
        return tuple(_digits(word))
    if DENSE_RUN.match(word):
        return tuple(Term((word[at : at + 2],), hard=False) for at in range(max(1, len(word) - 1)))
    return tuple(_word(word, names=names, inside=inside))


_known = lru_cache(maxsize=_MOST_KNOWN)(_classified)  # the same words come again and again: it halves the time


class Readings(dict[str, _R]):
    """What was read in words, kept for at most `most` of them, if they are `is_to_keep`: those that were seen last.

    Where it is full, the half that was not asked for since it was half full goes. Not for several threads.
    """

    def __init__(self, read: Callable[[str], _R], most: int = _MOST_KNOWN) -> None:
        super().__init__()
        self._read = read
        self._half = most // 2
        self._older: dict[str, _R] = {}

    def __missing__(self, word: str) -> _R:
        found = self._older[word] if word in self._older else self._read(word)
        if is_to_keep(word):
            if len(self) >= self._half:
                self._older = dict(self)
                self.clear()
            self[word] = found
        return found


def _plain(word: str) -> tuple[Term, ...]:
    if not word.isascii() or not word.isalpha() or word in WORD_NUMBERS or word in UNITS:
        return _classified(word, names=True, inside=False, identifier=False)
    if word in STOPWORDS:
        return ()
    form = stem(word)
    return (Term((form, word) if form != word else (form,), hard=False),)


PLAIN = Readings(_plain)
"""Words in lower case, which nothing around them makes names, with their terms: most words are such."""


def _digits(word: str) -> Iterator[Term]:
    """Yield the terms of a token with digits: a number, a number with its unit, a time or ratio, or a code."""
    quantity = _HYPHENATED_QUANTITY.fullmatch(word) or _QUANTITY.fullmatch(word)
    if NUMBER.fullmatch(word):
        yield Term(number_forms(word), hard=True, number=True)
    elif quantity:
        yield Term(number_forms(quantity[1]), hard=True, number=True)
        yield Term((stem(quantity[2].lstrip("-")),), hard=False)
    elif _CLOCK.fullmatch(word):
        hour, minute = word.split(":")
        yield Term((f"{int(hour)}:{minute}",), hard=True, implied=(str(int(hour)),))
    elif _DIGIT_GROUPS.fullmatch(word):
        # Parts of something may be written with other marks between them.
        yield from (Term(number_forms(part), hard=True) for part in re.split(r"\D", word))
    else:
        yield Term((code(word),), hard=True, kind=CODE)


def code(word: str) -> str:
    """Return a code without what people leave out of it: `HX-200`, `hx_200` and `HX200` are one."""
    return re.sub(r"[-_]", "", word).lower()


def _word(word: str, *, names: bool, inside: bool) -> Iterator[Term]:
    lower = word.lower()
    if lower in STOPWORDS:
        return
    if lower in WORD_NUMBERS:
        yield Term((WORD_NUMBERS[lower],), hard=lower not in SOFT_NUMBERS, number=True)
    elif COMPOUND_NUMBER.fullmatch(lower):
        tens, ones = lower.split("-")
        yield Term((str(int(WORD_NUMBERS[tens]) + int(WORD_NUMBERS[ones])),), hard=True, number=True)
    elif lower in UNITS and len(word) > 1:
        yield Term(tuple(dict.fromkeys((UNITS[lower], *_name_forms(word)))), hard=False)
    elif "_" in word or _CAMEL.search(word) or re.search(r"\w[.:@]\w", word):
        yield Term((code(word),), hard=True, kind=SYMBOL)
    elif len(word) > 1 and word.isupper() and names and lower not in ROLES:
        yield Term(_name_forms(word), hard=True)
    elif re.search(r"[-/'’]", word):  # noqa: RUF001
        for part in re.split(r"[-/'’]", word):  # noqa: RUF001
            if len(part) > 1:  # "Chicago-based" has a name, and speaks of something else
                yield from (structs.replace(term, kind="") for term in _word(part, names=names, inside=inside))
    else:
        hard = inside and names and word[:1].isupper() and lower not in ROLES
        yield Term(_name_forms(word), hard=hard, kind=NAME if hard else "")


def _name_forms(word: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((stem(word), code(word))))
