"""The words, numbers, names and codes of a sentence, brought to one form so that they can be compared.

A term is *hard* when a sentence that has it is false unless a source has it too: numbers, codes and identifiers
(tokens with digits, underscores, inner dots or capitals), words in capitals, and capitalised words inside a sentence
(not in German, which capitalises every noun). All other content words are soft; function words are no terms.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

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
from hartonomous.core.quantities import (
    ALSO,
    CURRENCIES,
    SCALES,
    UNITS,
    Date,
    dates,
    is_negative,
    scaled,
    symbol,
)
from hartonomous.core.words import COMPOUND_NUMBER, DENSE_RUN, DIGIT, NAME, PERSON, PLAIN, Term, classified, code, stem

_TOKEN = re.compile(  # a group: a text is split by it, which takes a third of the time that its matches take
    r"([0-9]+(?:[.,][0-9]+)*(?![^\W_]|[-_/:][^\W_])"
    r"|[^\W_]+(?:(?:[-_.'’/:@]|::)[^\W_]+|_+(?=[^\W_]))*)"  # noqa: RUF001
)
_COMMON = STOPWORDS | NO_NAMES
_COMPOUND = frozenset(("squar", "cubic"))
_APOSTROPHE = re.compile(r"['’]")  # noqa: RUF001
_SOURCE_NUMBER = re.compile(r"\b(?:source|document|passage|quelle)s?\s+#?[0-9]{1,3}\b", re.IGNORECASE)
_ITEM = re.compile(r"^\s*(?:[-*+>#]+\s+)*(?:\(?[0-9]{1,3}[.)]\s+)?", re.MULTILINE)
_WRAP = re.compile(r"(?<![ \t])[ \t]*+\r?\n[ \t]*+(?=[a-zß-ÿ0-9])")  # a sentence goes on in the next line
_PAUSE = re.compile(r"[,;:()|.!?\n]")
_STARTERS = ':;"“„«(*#|—–`'  # noqa: RUF001

_BREAK = Term((), hard=False)
"""Stands where a number and what follows do not belong together."""
_APART = Term((), hard=False, lead="apart")
"""Stands for a preposition before a number: what it counts is not what the number before counts."""
_JOINT = Term((), hard=False, lead="joint")
"""Stands for a conjunction: what is behind it is a little further away."""


_STEPS = {"": 2, "joint": 1, "apart": 0}


def terms(sentence: str) -> list[Term]:
    """Return the terms of a sentence, in order, repetitions included."""
    return laid_out(sentence)[0]


def laid_out(sentence: str) -> tuple[list[Term], list[int]]:
    """Return the terms of a sentence, and the position of each: marks and conjunctions take some room as well."""
    figures = DIGIT.search(sentence) is not None
    parts = _terms(_prepared(sentence, figures), figures)
    found: list[Term] = []
    positions: list[int] = []
    position = 0
    for index, part in enumerate(parts):
        if not part.forms:
            position += _STEPS[part.lead]
            continue
        found.append(_with_unit(parts, index) if part.number else part)
        positions.append(position)
        position += 1
    return found, positions


def _prepared(sentence: str, figures: bool) -> str:
    """Return a sentence on one line, without what is no part of it: items' numbers, sources' numbers."""
    text = _SOURCE_NUMBER.sub(" ", sentence) if figures else sentence
    if "\n" in text:
        text = _WRAP.sub(" ", _ITEM.sub("", text))
    elif not text[:1].isalpha() and (item := _ITEM.match(text)):
        text = text[item.end() :]
    return text if text.isascii() else DENSE_RUN.sub(lambda run: f" {run[0]} ", text)


_SCALE_MEASURES = frozenset(f"e{power}" for power in SCALES.values())
_STEMMED_UNITS = {stem(word): unit for word, unit in UNITS.items()} | UNITS
_STEMMED_SCALES = {stem(word): power for word, power in SCALES.items()}


def _terms(text: str, figures: bool) -> list[Term]:
    """Return the terms of a text, which may have `figures`, and what stands between them."""
    tokens = _Tokens(text)
    words, gaps = tokens.words, tokens.gaps
    found = list(dates(text)) if figures else []
    starts = tokens.starts if found else ()
    context: _Context | None = None
    parts: list[Term] = []
    skip = 0
    for place, word in enumerate(words):
        gap = gaps[place]
        if starts:
            if starts[place] < skip:
                continue
            if skip:
                gap, skip = text[skip : starts[place]], 0
        if gap != " " and place and _PAUSE.search(gap):
            parts.append(_BREAK)
        if found and found[0].start <= starts[place] < found[0].end:
            date = found.pop(0)
            skip = date.end
            parts += (*_dated(date), _BREAK)
        elif word in CONJUNCTIONS:
            parts.append(_JOINT)
        elif word in COUNTING and tokens.number_follows(place):
            parts.append(_APART)
        elif word.isalpha() and word.islower() and gap[-1:] != "`":
            parts += PLAIN[word]  # most are
        else:
            context = context or _Context(tokens)
            parts += context.classified(place)
    return parts


def _dated(date: Date) -> Iterator[Term]:
    first, *rest = date.required
    yield Term(first, hard=True, implied=date.implied)
    yield from (Term(forms, hard=True) for forms in rest)


class _Tokens:
    """A text cut into words and what stands before each of them, one more of these for what is behind the last."""

    __slots__ = ("_starts", "gaps", "text", "words")

    def __init__(self, text: str) -> None:
        pieces = _TOKEN.split(text)
        self.text = text
        self.gaps, self.words = pieces[::2], pieces[1::2]
        self._starts: list[int] = []

    @property
    def starts(self) -> list[int]:
        """Where each word begins; only numbers and dates ask for it."""
        if not self._starts:
            at = 0
            for gap, word in zip(self.gaps, self.words, strict=False):
                self._starts.append(at + len(gap))
                at += len(gap) + len(word)
        return self._starts

    def after(self, place: int) -> str:
        """Return the word behind another one, or nothing."""
        return self.words[place + 1] if place + 1 < len(self.words) else ""

    def number_follows(self, place: int) -> bool:
        """Tell whether nothing but blanks stands between a word and a number."""
        return self.gaps[place + 1].isspace() and DIGIT.match(self.after(place)) is not None


class _Context:
    """The tokens of a sentence, to tell names from other words by what stands around them."""

    __slots__ = ("_capital", "_gaps", "_german", "_loud", "_tokens", "_words")

    def __init__(self, tokens: _Tokens) -> None:
        self._tokens = tokens
        self._words = words = tokens.words
        self._gaps = tokens.gaps
        self._german = _is_german(words)
        self._loud = tokens.text.isupper()
        self._capital = [word[0].isupper() and self._is_capital(word) for word in words]

    def classified(self, place: int) -> Iterator[Term]:
        """Yield the terms of one token."""
        word = self._words[place]
        if word[0].isdigit():
            yield from self._number(place)
            return
        if self._gaps[place][-1:] == "°" or self._is_of_currency(place):
            return
        inside = place > 0 and word[0].isupper() and self._before(place) not in _STARTERS
        joined = self._capital[place] and not self._loud and self._in_run(place)
        firm = self._capital[place] and self._is_firm(place)
        names = not self._loud and (not self._german or joined or firm)
        identifier = self._identifies(place)
        if identifier == "maybe":
            yield Term((code(word),), hard=False, lead="identifier", implied=tuple(map(stem, word.split("-"))))
            return
        for term in classified(word, names=names, inside=inside or joined or firm, identifier=identifier == "yes"):
            yield self._named(term, place, joined)

    def _named(self, term: Term, place: int, joined: bool) -> Term:
        if term.kind == NAME and self._words[place].lower() in NO_NAMES:
            return term._replace(kind="")
        if joined and term.kind == NAME:
            group = place - 1 if place and self._capital[place - 1] and self._touch(place) else place
            return term._replace(kind=PERSON, group=group, after=self._word_before(group))
        if term.number or not self._capital[place] or self._loud:
            return term
        if place:
            begins = not term.hard and self._before(place) in _STARTERS
            return term._replace(after=self._word_before(place), lead="word" if begins else "")
        return term if term.hard else term._replace(lead="name" if self._leads() else "word")

    def _is_of_currency(self, place: int) -> bool:
        """Tell whether a word is a part of a unit: "Swiss francs"."""
        return self._tokens.after(place) in CURRENCIES and self._words[place][0].isupper()

    def _word_before(self, place: int) -> str:
        """Return the word in front of a token, if nothing but a blank is between and it is no article."""
        before = self._words[place - 1] if place and self._touch(place) else ""
        return "" if before in ARTICLES else before

    def _number(self, place: int) -> Iterator[Term]:
        text, word, start = self._tokens.text, self._words[place], self._tokens.starts[place]
        sign = symbol(text, start, start + len(word))
        negative = is_negative(text, start)
        for term in classified(word, names=True, inside=True, identifier=False):
            if not term.number or not (sign or negative):
                yield term
                continue
            forms = tuple(f"-{form}" for form in term.forms) if negative else term.forms
            yield term._replace(forms=forms, measures=frozenset((sign,)) if sign else frozenset())

    def _is_capital(self, word: str) -> bool:
        plain = _APOSTROPHE.split(word, maxsplit=1)[0]
        lower = plain.lower()
        return (len(plain) > 1 and not plain.isupper() and lower not in _COMMON) and DIGIT.search(word) is None

    def _in_run(self, place: int) -> bool:
        """Tell whether two words with capitals stand side by side here, as in a person's name."""
        capital = self._capital
        if place and capital[place - 1] and self._touch(place):
            return place > 1 or self._opens_run()
        follows = place + 1 < len(capital) and capital[place + 1] and self._touch(place + 1)
        return follows and (place > 0 or self._opens_run())

    def _opens_run(self) -> bool:
        """Tell whether the first word can begin a name: not "Delivery" and not a German "Weitere"."""
        word = self._words[0].lower()
        return not COMMON_END.search(word) and not (self._german and ADJECTIVE.fullmatch(word))

    def _is_firm(self, place: int) -> bool:
        """Tell whether a legal form follows: "Nortex GmbH"."""
        following = self._tokens.after(place)
        return following.lower().rstrip(".") in LEGAL_FORMS and following[:1].isupper() and self._touch(place + 1)

    def _touch(self, place: int) -> bool:
        """Tell whether nothing but a blank stands before a token."""
        return self._gaps[place] == " "

    def _before(self, place: int) -> str:
        return self._gaps[place].rstrip()[-1:] or self._words[place - 1][-1]

    def _leads(self) -> bool:
        """Tell whether the sentence begins as with a name: "Nortex has", and not "Patients have"."""
        if len(self._words) < 2:
            return False
        word, following = self._words[:2]
        if word.endswith(("'s", "’s")):  # noqa: RUF001
            return True
        if COMMON_END.search(word.lower()) or not following[0].islower():
            return False
        if not self._touch(1):
            return False
        if word.endswith("s") and not following.endswith("s"):
            return False  # "Patients have"
        if following in VERBAL:
            return True
        return following not in STOPWORDS and AFTER_NAME.fullmatch(following) is not None

    def _identifies(self, place: int) -> str:
        """Tell whether a word in lower case names something: "yes" in backticks and in front, or "maybe"."""
        word, behind = self._words[place], self._gaps[place + 1][:1]
        if behind == "`" and self._gaps[place][-1:] == "`":
            return "yes"
        if "-" not in word or not word.islower() or COMPOUND_NUMBER.fullmatch(word):
            return ""
        if place == 0:
            return "yes"
        following = self._tokens.after(place)
        alone = behind != " " or following in STOPWORDS or following in VERBAL or DIGIT.match(following) is not None
        before = self._words[place - 1].lower()
        return "maybe" if (alone or following.endswith("s")) and before not in BEFORE_ADJECTIVES else ""


def _is_german(words: Sequence[str]) -> bool:
    return len(GERMAN.intersection(words)) * 8 > len(words)


def _with_unit(parts: list[Term], index: int) -> Term:
    """Give a number its unit, and the value that a scale word after it makes of it."""
    part = parts[index]
    words: list[str] = []
    for term in parts[index + 1 : index + 4]:
        if not term.forms and term is not _JOINT:
            break
        if term.forms and not term.number and not term.hard:
            words.append(term.forms[0])
    if not words:
        return part._replace(unit=next(iter(part.measures), None))
    adjacent = index + 1 < len(parts) and parts[index + 1].forms[:1] == (words[0],)
    power = _STEMMED_SCALES.get(words[0], 0) if adjacent else 0
    signed = next(iter(part.measures), None)
    compound = not signed and words[0] in _COMPOUND and len(words) > 1
    measures = part.measures | _measures([] if signed else words[: 2 if power or compound else 1], power)
    if compound:
        unit = f"{words[0]} {_STEMMED_UNITS.get(words[1], words[1])}"
        return Term(part.forms, part.hard, number=True, unit=unit, measures=frozenset((unit,)))
    if power:
        forms = tuple(scaled(form, power) for form in part.forms)
        return Term((*part.forms, *forms), part.hard, number=True, measures=measures)
    unit = signed or _STEMMED_UNITS.get(words[0], words[0])
    hard = part.hard or (adjacent and part.forms == ("2",) and bool(measures))  # "two weeks", and not "the two of us"
    return Term(part.forms, hard, number=True, unit=unit, measures=measures)


def measures_of(term: Term, form: str) -> frozenset[str]:
    """Return the measures of a number by one of its forms: with its scale in it ("4200"), there is no scale beside."""
    if len(term.forms) > 1 and term.forms.index(form) * 2 >= len(term.forms):
        return term.measures - _SCALE_MEASURES
    return term.measures


def _measures(words: Sequence[str], power: int) -> frozenset[str]:
    units = {_STEMMED_UNITS[word] for word in words if word in _STEMMED_UNITS}
    units |= {ALSO[unit] for unit in units if unit in ALSO}
    return frozenset(units | ({f"e{power}"} if power else set()))
