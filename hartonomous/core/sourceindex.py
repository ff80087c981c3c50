"""One source's sentences, indexed by the forms of their terms, with what each of them speaks of.

A place is a sentence of a source. It speaks of the names that it begins with and of the codes in it, and where it has
none of a kind ("It weighs 3 kg") of its topic: those of the heading above it or of the sentence that last began with
one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property

from hartonomous.core.lexicon import PLACING
from hartonomous.core.quantities import LOOSE, SCALES
from hartonomous.core.roles import Roles
from hartonomous.core.sentences import sentences
from hartonomous.core.terms import laid_out, measures_of
from hartonomous.core.words import CODE, IDENTIFIER, NAME, PERSON, SYMBOL, Term

Names = dict[str, frozenset[str]]
"""Forms of names by their kind."""

_IN_FRONT = 3  # terms of a sentence, among which its subject is looked for
_REFERS_BACK = re.compile(
    r"\W*+(?:it|its|they|their|he|she|his|her|this|these|those|such|both|er|sie|es|ihr|ihre|sein|seine|dies\w*|"
    r"elle|elles|il|ils|son|sa|ses|leur|leurs|ce|cette|ces|el|ella|su|sus)\b",
    re.IGNORECASE,
)
_SCALES = frozenset(f"e{power}" for power in SCALES.values())
_PROPER = frozenset((NAME, PERSON))
_APART = 6  # positions between two sentences
_LONGEST_KEPT, _MOST_KEPT = 4_000, 300_000  # characters


class SourceIndex:
    """The sentences of one source, indexed by the forms of their terms; not changed once it is made.

    What only names and facts are asked for is worked out when the first one is found in it.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._spans = sentences(source)
        self.read = {sentence: laid_out(sentence) for sentence in [source[start:end] for start, end in self._spans]}
        """Each sentence's terms and their positions, as they are without those around it."""
        read, self._positions = _laid_out(source, self._spans, self.read)
        # A heading's capitals mean little.
        told = [found for (start, _), found in zip(self._spans, read, strict=True) if source[start] != "#"]
        everything = [term for found in told for term in found]
        self.plain = frozenset([form for term in everything if not term.hard and not term.lead for form in term.forms])
        """The forms of words that are no names."""
        named = {form for term in everything if term.hard and term.kind for form in term.forms}
        leading = {form for term in everything if term.lead == "name" for form in term.forms}
        self.known = frozenset(named | (leading - self.plain))
        """The forms of names."""
        self.terms = [settled(found, self.known) for found in read]
        """Each place's terms."""
        self.at: dict[str, list[int]] = {}
        """The places that have a form."""
        self._beside: defaultdict[tuple[int, str], set[tuple[str | None, frozenset[str]]]] = defaultdict(set)
        self._find_terms()

    def _find_terms(self) -> None:
        """Note the places of all forms, and the units and measures of the numbers in a place."""
        at = self.at
        for place, found in enumerate(self.terms):
            for term in found:
                forms = _indexed(term) if term.hard or term.implied else term.forms
                for form in forms:
                    if form not in at:
                        at[form] = [place]
                    elif at[form][-1] != place:
                        at[form].append(place)
                if term.number:
                    for form in forms:
                        self._beside[place, form].add((term.unit, measures_of(term, form)))

    @cached_property
    def names(self) -> list[Names]:
        """What each place speaks of."""
        topic = _Topic(self.known)
        told_of = zip(self._spans, self.terms, strict=True)
        return [topic.names(self._source[start:end], found) for (start, end), found in told_of]

    @cached_property
    def named(self) -> list[frozenset[str]]:
        """The forms of each place's own names."""
        return [frozenset([form for term in found if term.hard for form in term.forms]) for found in self.terms]

    @cached_property
    def wording(self) -> str:
        """All terms in a row."""
        return wording(term for found in self.terms for term in found)

    @cached_property
    def roles(self) -> Roles:
        """What each fact stands beside."""
        above = _under(self._spans, self._source, self.named)
        spoken = [head.union(*names.values()) for head, names in zip(above, self.names, strict=True)]
        return Roles(self.terms, self._positions, spoken)

    @cached_property
    def _units(self) -> frozenset[str]:
        return frozenset([term.unit for found in self.terms for term in found if term.unit is not None])

    def _begins_with_name(self, place: int) -> bool:
        return self._source[self._spans[place][0]] == "#" or bool(subjects_of(self.terms[place]))

    def beside_its_unit(self, places: Iterable[int], term: Term) -> list[int]:
        """Return those of the places of a number that have it beside the right unit."""
        return [place for place in places if self._fits(place, term)]

    def _fits(self, place: int, term: Term) -> bool:
        """Tell whether a number stands somewhere in a place with the unit that it is asked for with, or with none."""
        written = [
            (measures_of(term, form), *beside) for form in term.forms for beside in self._beside.get((place, form), ())
        ]
        counts = term.unit is not None and term.unit in self._units
        return not written or any(
            (not counts or unit in (None, term.unit)) and _agree(asked, measures, unit)
            for asked, unit, measures in written
        )

    def mentions(self, place: int, names: Collection[str]) -> bool:
        """Tell whether a place has a name, or the one before it, where it goes on speaking of the same."""
        found = not self.named[place].isdisjoint(names)
        goes_on = place > 0 and not self._begins_with_name(place)
        return found or (goes_on and not self.named[place - 1].isdisjoint(names))


_kept: dict[str, SourceIndex] = {}  # the one that was asked for last at the end


def index_of(source: str) -> SourceIndex:
    """Return a source's index; those of the last sources are kept, for the same chunk is asked about again and again.

    Kept are texts of at most 4,000 characters, 300,000 in all: their indexes take 28 bytes a character, 55 where facts
    were looked for in them, so some 16 MB at most. To make one takes 0.4 ms for a text of 650 characters. Not for
    several threads.
    """
    index = _kept.pop(source, None)
    if index is None:
        index = SourceIndex(source)
        if len(source) > _LONGEST_KEPT:
            return index
        size = sum(map(len, _kept)) + len(source)
        while size > _MOST_KEPT:
            oldest = next(iter(_kept))
            size -= len(oldest)
            del _kept[oldest]
    _kept[source] = index
    return index


class _Topic:
    """What the sentences of a source speak of, as they are read in order."""

    def __init__(self, known: Set[str]) -> None:
        self._known = known
        self._headings: list[tuple[int, Names]] = []
        self._topic: Names = {}
        self._main = ""

    def names(self, sentence: str, listed: Sequence[Term]) -> Names:
        """Return the names that the next sentence speaks of, by kind."""
        own = names_of(listed)
        if sentence.startswith("#"):
            return self._head(sentence, own)
        front = {} if _REFERS_BACK.match(sentence) else subjects_of(listed)
        for kind in front:
            self._turn(kind, front[kind])
            break
        codes = {kind: own[kind] for kind in (CODE, SYMBOL) if kind in own}
        return {**self._topic, **front, **codes}

    def _head(self, heading: str, own: Names) -> Names:
        """Begin a section and return its topic: the names in its heading and in those above it.

        Words with capitals are names only where the text uses them so: "Technical Data" is none.
        """
        level = len(heading) - len(heading.lstrip("#"))
        kept = {kind: names for kind, names in own.items() if kind not in _PROPER or not names.isdisjoint(self._known)}
        above = [(other, names) for other, names in self._headings if other < level]
        self._headings = [*above, (level, kept)]
        self._topic = {kind: names for _, found in self._headings for kind, names in found.items()}
        self._main = next(iter(kept), next(iter(self._topic), ""))
        return dict(self._topic)

    def _turn(self, kind: str, names: frozenset[str]) -> None:
        """Turn to another topic where a sentence begins with a rival of the present one."""
        if not self._main:
            self._main = kind
        if kind == self._main and names.isdisjoint(self._topic.get(kind, ())):
            self._topic = {kind: names}


def settled(listed: Sequence[Term], known: Set[str]) -> list[Term]:
    """Return terms; what may be a name is one where it is known for one."""
    return [term if not term.lead or known.isdisjoint(term.forms) else as_name(term) for term in listed]


def wording(listed: Iterable[Term]) -> str:
    """Return terms as one string, in which others are found as a part."""
    return "".join(f" {term.forms[0]} " for term in listed)


def subjects_of(listed: Sequence[Term]) -> Names:
    """Return the names that a sentence begins with and speaks of: not "in Ulm"."""
    return names_of([term for term in listed[:_IN_FRONT] if term.after.lower() not in PLACING])


def _laid_out(
    source: str, spans: Sequence[tuple[int, int]], alone: Mapping[str, tuple[list[Term], list[int]]]
) -> tuple[list[list[Term]], list[list[int]]]:
    """Return each sentence's terms and their positions in the whole source."""
    read: list[list[Term]] = []
    positions: list[list[int]] = []
    offset = 0
    for start, end in spans:
        found, at = alone[source[start:end]]
        read.append(_at_start(source, start, found))
        positions.append([offset + position for position in at])
        # What follows a question or a colon belongs to it.
        offset += (at[-1] if at else 0) + (2 if source[max(start, end - 3) : end].rstrip("*_")[-1:] in "?:" else _APART)
    return read, positions


def _under(spans: Sequence[tuple[int, int]], source: str, named: Sequence[frozenset[str]]) -> Iterator[frozenset[str]]:
    """Yield the names and numbers of the last heading above each sentence."""
    head: frozenset[str] = frozenset()
    for (start, _), own in zip(spans, named, strict=True):
        yield head
        if source[start] == "#":
            head = own


def _indexed(term: Term) -> list[str]:
    """Return the forms under which a term of a source is found."""
    return [*(form for form in term.forms if not form.startswith(LOOSE)), *term.implied]


def _at_start(source: str, start: int, listed: list[Term]) -> list[Term]:
    """Return a sentence's terms; only at a paragraph's start a first word is taken for a name for its looks."""
    if not listed or listed[0].lead != "name" or not source[:start].rstrip(" \t") or source[:start].endswith("\n\n"):
        return listed
    return [listed[0]._replace(lead="word"), *listed[1:]]


def as_name(term: Term) -> Term:
    """Return a term that names something."""
    return term._replace(hard=True, kind=IDENTIFIER if term.lead == "identifier" else NAME)


def names_of(listed: Sequence[Term]) -> Names:
    """Return the forms of the names among some terms, by kind, in the order of the kinds' first names."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for term in listed:
        if term.hard and term.kind:
            found[term.kind].update(term.forms)
    return {kind: frozenset(forms) for kind, forms in found.items()}


def _agree(one: frozenset[str], other: frozenset[str], unit: str | None) -> bool:
    """Tell whether a number with some measures can be one with others, and beside a unit, in a source.

    Two units exclude each other, and two scales; "420 million" is not "420 workers", but may be the 420 of a table.
    """
    units, others = one - _SCALES, other - _SCALES
    scales, other_scales = one & _SCALES, other & _SCALES
    if units and others and units.isdisjoint(others):
        return False
    return scales == other_scales or not scales or (not other_scales and unit is None)
