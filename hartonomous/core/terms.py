"""The words, numbers, names and codes of a sentence, brought to one form so that they can be compared.

A term is *hard* when a sentence that has it is false unless a source has it too: numbers, codes and identifiers
(tokens with digits, underscores, inner dots or capitals), words in capitals, and capitalised words inside a sentence
(not in German, which capitalises every noun). All other content words are soft; function words are no terms.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from operator import attrgetter

from msgspec import structs

from hartonomous.core.chunks import CHUNKS, FORMS, Chunk, parts_of
from hartonomous.core.naming import BREAK, JOINT, Context
from hartonomous.core.quantities import ALSO, SCALES, UNITS, Date, dates, scaled
from hartonomous.core.words import DENSE_RUN, DIGIT, Readings, Term, stem

_COMPOUND = frozenset(("squar", "cubic"))
_SOURCE_NUMBER = re.compile(r"\b(?:source|document|passage|quelle)s?\s+#?[0-9]{1,3}\b", re.IGNORECASE)
_SOURCES = ("source", "document", "passage", "quelle")
_ITEM = re.compile(r"\s*(?:[-*+>#]+\s+)*(?:\(?[0-9]{1,3}[.)]\s+)?")
_WRAP = re.compile(r"\n[ \t]*+(?=[a-zß-ÿ0-9])")  # a sentence goes on in the next line
_REACH = 3  # terms behind a number, among which its unit is looked for
_LINE_END = " ; "  # parts what stands before it from what stands behind it as a line's end does

_STEPS = {"": 2, "joint": 1, "apart": 0}
_FORMS_OF, _NUMBER_OF = attrgetter("forms"), attrgetter("number")  # for `map`: of each term, without a step of ours
_IS_DATED = attrgetter("dated")


def terms(sentence: str) -> list[Term]:
    """Return the terms of a sentence, in order, repetitions included."""
    return laid_out(sentence)[0]


def laid_out(sentence: str) -> tuple[list[Term], list[int]]:
    """Return the terms of a sentence, and the position of each: marks and conjunctions take some room as well."""
    figures = DIGIT.search(sentence) is not None
    parts = _terms(_prepared(sentence, figures), figures)
    if any(map(_NUMBER_OF, parts)):
        parts = [_with_unit(parts, index) if part.number else part for index, part in enumerate(parts)]
    if all(map(_FORMS_OF, parts)):
        return parts, list(range(len(parts)))
    found: list[Term] = []
    positions: list[int] = []
    position = 0
    for part in parts:
        if part.forms:
            found.append(part)
            positions.append(position)
            position += 1
        else:
            position += _STEPS[part.lead]
    return found, positions


def forms_in(text: str) -> frozenset[str]:
    """Return the forms of a text's terms and what they imply, in half the time that its terms take."""
    figures = DIGIT.search(text) is not None
    parts = _terms(_prepared(text, figures), figures, only_forms=True)
    forms = set(chain.from_iterable([part.forms for part in parts]))
    for index, part in enumerate(parts):
        if part.number:
            forms.update(_with_unit(parts, index).forms)
        elif part.implied:
            forms.update(part.implied)
    return frozenset(forms)


def _prepared(sentence: str, figures: bool) -> str:
    """Return a sentence on one line, without what is no part of it: items' numbers, sources' numbers."""
    text = _SOURCE_NUMBER.sub(" ", sentence) if figures and _may_number_sources(sentence) else sentence
    if "\n" in text:
        text = _unwrapped(_without_items(text))
    elif not text[:1].isalpha() and (item := _ITEM.match(text)):
        text = text[item.end() :]
    return text if text.isascii() else DENSE_RUN.sub(lambda run: f" {run[0]} ", text)


def _without_items(text: str) -> str:
    """Return lines without the marks and numbers of items that they begin with."""
    kept: list[str] = []
    at = 0
    while True:
        item = _ITEM.match(text, at)
        start = item.end() if item else at
        # An item may end with its line: then the next one begins there.
        at = text.find("\n", start - (start > at)) + 1
        if not at:
            return "".join([*kept, text[start:]])
        kept.append(text[start:at])


def _unwrapped(text: str) -> str:
    """Return lines of which those that go on with the sentence before them are joined with a blank."""
    *lines, last = _WRAP.split(text)
    return " ".join([*[line.removesuffix("\r").rstrip(" \t") for line in lines], last]) if lines else text


def _may_number_sources(sentence: str) -> bool:
    lower = sentence.lower()
    return not lower.isascii() or any(map(lower.__contains__, _SOURCES))


_SCALE_MEASURES = frozenset(f"e{power}" for power in SCALES.values())
_STEMMED_UNITS = {stem(word): unit for word, unit in UNITS.items()} | UNITS
_STEMMED_SCALES = {stem(word): power for word, power in SCALES.items()}


def _terms(text: str, figures: bool, *, only_forms: bool = False) -> list[Term]:
    """Return the terms of a text, which may have `figures`, and what stands between them.

    `only_forms`: whether a term is a name is not asked.
    """
    chunks = (text.replace("\n", _LINE_END) if "\n" in text else text).split()
    read = list(map(CHUNKS.__getitem__, chunks))
    context: Context | None = None
    if figures and any(map(_IS_DATED, read)) and (found := list(dates(text))):
        return _with_dates(text, found)
    parts: list[Term] = []
    place, paused = 0, False
    for at, chunk in enumerate(read):
        if chunk.plain and not paused:  # as most are
            parts += chunk.parts or ()
            place += 1
            continue
        own, count = chunk.parts, chunk.words
        if not count:
            paused = paused or chunk.closes
            continue
        if own is None:
            own = parts_of(text, chunks, read, at)
        if own is None and only_forms:
            own = _with_its_forms(chunks, read, at, () if paused or chunk.opens else parts[-_REACH:])
        if own is None:
            context = context or Context(text)
            for word in range(place, place + count):
                parts += context.parts(word)
        else:
            if (paused or chunk.opens) and place:
                parts.append(BREAK)
            parts += own
        place += count
        paused = chunk.closes
    return parts


def _with_its_forms(
    chunks: Sequence[str], read: Sequence[Chunk], at: int, before: Sequence[Term]
) -> tuple[Term, ...] | None:
    """Return a term with the forms of a chunk; None where they are not all that matters, as beside a number or unit.

    `before` are the terms before it that no mark parts from it.
    """
    forms = FORMS[chunks[at]]
    if not forms:
        return None if forms is None else ()
    if True in [term.number for term in before]:
        return None
    if at + 1 < len(read) and (not read[at + 1].words or FORMS[chunks[at + 1]] is None):
        return None
    return (Term(forms, hard=False),)


def _with_dates(text: str, found: list[Date]) -> list[Term]:
    """Return the terms of a text with dates, and what stands between them."""
    context = Context(text)
    parts: list[Term] = []
    skip = 0
    for place, start in enumerate(context.starts):
        if start < skip:
            continue
        gap, skip = text[skip:start] if skip else context.gaps[place], 0
        if found and found[0].start <= start < found[0].end:
            date = found.pop(0)
            skip = date.end
            parts += (*context.pause(place, gap), *_dated(date), BREAK)
        else:
            parts += context.parts(place, gap)
    return parts


def _dated(date: Date) -> Iterator[Term]:
    first, *rest = date.required
    yield Term(first, hard=True, implied=date.implied)
    yield from (Term(forms, hard=True) for forms in rest)


def _with_unit(parts: list[Term], index: int) -> Term:
    """Give a number its unit, and the value that a scale word after it makes of it."""
    part = parts[index]
    words: list[str] = []
    for term in parts[index + 1 : index + 1 + _REACH]:
        if not term.forms:
            if term is not JOINT:
                break
        elif not (term.number or term.hard):
            words.append(term.forms[0])
    if not words:
        return structs.replace(part, unit=next(iter(part.measures), None))
    adjacent = parts[index + 1].forms[:1] == (words[0],)
    power = _STEMMED_SCALES.get(words[0], 0) if adjacent else 0
    signed = next(iter(part.measures), None)
    compound = not signed and words[0] in _COMPOUND and len(words) > 1
    if compound:
        unit = f"{words[0]} {_STEMMED_UNITS.get(words[1], words[1])}"
        return Term(part.forms, part.hard, number=True, unit=unit, measures=frozenset((unit,)))
    if power:
        measures = part.measures | _measures([] if signed else words[:2], power)
        forms = tuple([scaled(form, power) for form in part.forms])
        return Term((*part.forms, *forms), part.hard, number=True, measures=measures)
    unit, measures = (signed, part.measures) if signed else _UNIT_OF[words[0]]
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


def _unit_of(word: str) -> tuple[str, frozenset[str]]:
    return _STEMMED_UNITS.get(word, word), _measures([word], 0)


_UNIT_OF = Readings(_unit_of)
