"""Where terms stand in the sources, and what the sentences that have them speak of.

A place is a sentence of a source. It speaks of the names that it begins with and of the codes in it, and where it has
none of a kind ("It weighs 3 kg") of its topic: those of the heading above it or of the sentence that last began with
one. A place contradicts a sentence when both have names of one kind (two product codes, two persons) and none is the
same: "3 kg" in a place that speaks of the HX-210 does not support "the HX-200 weighs 3 kg".
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache

from hartonomous.core.lexicon import PLACING
from hartonomous.core.quantities import LOOSE, SCALES
from hartonomous.core.roles import Fact, Roles
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


_NOTHING: frozenset[str] = frozenset()
_PROPER = frozenset((NAME, PERSON))
_APART = 6  # positions between two sentences
_KEPT = 128
_LONGEST_KEPT = 4_000  # characters


class SourceIndex:
    """The sentences of one source, indexed by the forms of their terms; not changed once it is made."""

    __slots__ = ("at", "beside", "fronted", "known", "named", "names", "plain", "roles", "terms", "units", "wording")

    def __init__(self, source: str) -> None:
        spans = sentences(source)
        read, positions = _laid_out(source, spans)
        # A heading's capitals mean little.
        told = [found for (start, _), found in zip(spans, read, strict=True) if source[start] != "#"]
        everything = [term for found in told for term in found]
        self.plain = frozenset(form for term in everything if not term.hard and not term.lead for form in term.forms)
        """The forms of words that are no names."""
        named = {form for term in everything if term.hard and term.kind for form in term.forms}
        leading = {form for term in everything if term.lead == "name" for form in term.forms}
        self.known = frozenset(named | (leading - self.plain))
        """The forms of names."""
        self.terms = [settled(found, self.known) for found in read]
        """Each place's terms."""
        self.wording = wording(term for found in self.terms for term in found)
        self.at: defaultdict[str, list[int]] = defaultdict(list)
        """The places that have a form."""
        self.beside: defaultdict[tuple[int, str], set[tuple[str | None, frozenset[str]]]] = defaultdict(set)
        """The units and measures of the numbers in a place."""
        self.units = frozenset(term.unit for found in self.terms for term in found if term.unit is not None)
        self._find_terms()
        topic = _Topic(self.known)
        told_of = list(zip(spans, self.terms, strict=True))
        self.names = [topic.names(source[start:end], found) for (start, end), found in told_of]
        """What each place speaks of."""
        self.named = [frozenset(form for term in found if term.hard for form in term.forms) for found in self.terms]
        """The forms of each place's own names."""
        self.fronted = [source[start] == "#" or bool(subjects_of(found)) for (start, _), found in told_of]
        """Whether a place begins with a name."""
        above = _under(spans, source, self.named)
        spoken = [head.union(*names.values()) for head, names in zip(above, self.names, strict=True)]
        self.roles = Roles(self.terms, positions, spoken)
        """What each fact stands beside."""

    def _find_terms(self) -> None:
        for place, found in enumerate(self.terms):
            for term in found:
                for form in (*(form for form in term.forms if not form.startswith(LOOSE)), *term.implied):
                    places = self.at[form]
                    if not places or places[-1] != place:
                        places.append(place)
                    if term.number:
                        self.beside[place, form].add((term.unit, measures_of(term, form)))

    def beside_its_unit(self, places: Iterable[int], term: Term) -> list[int]:
        """Return those of the places of a number that have it beside the right unit."""
        return [place for place in places if self._fits(place, term)]

    def _fits(self, place: int, term: Term) -> bool:
        """Tell whether a number stands somewhere in a place with the unit that it is asked for with, or with none."""
        written = [
            (measures_of(term, form), *beside) for form in term.forms for beside in self.beside.get((place, form), ())
        ]
        counts = term.unit is not None and term.unit in self.units
        return not written or any(
            (not counts or unit in (None, term.unit)) and _agree(asked, measures, unit)
            for asked, unit, measures in written
        )

    def mentions(self, place: int, names: Collection[str]) -> bool:
        """Tell whether a place has a name, or the one before it, where it goes on speaking of the same."""
        found = not self.named[place].isdisjoint(names)
        goes_on = place > 0 and not self.fronted[place]
        return found or (goes_on and not self.named[place - 1].isdisjoint(names))


@lru_cache(maxsize=_KEPT)
def _kept_index(source: str) -> SourceIndex:
    return SourceIndex(source)


def index_of(source: str) -> SourceIndex:
    """Return a source's index; those of the last sources are kept, for the same chunk is asked about again and again.

    At most 128 texts of at most 4,000 characters are kept: some 25 MB where all are full (50 bytes a character).
    """
    return _kept_index(source) if len(source) <= _LONGEST_KEPT else SourceIndex(source)


class Places:
    """The places of several sources, numbered through."""

    __slots__ = ("_indexes", "_sources", "owners")

    def __init__(self, sources: Sequence[str]) -> None:
        self._indexes = [index_of(source) for source in sources]
        self._sources: list[tuple[int, SourceIndex]] = []
        self.owners: list[int] = []
        """Each place's source, from 0."""
        for number, index in enumerate(self._indexes):
            self._sources.append((len(self.owners), index))
            self.owners += [number] * len(index.terms)

    def settled(self, listed: Sequence[Term]) -> list[Term]:
        """Return a sentence's terms; what may be a name is one where a source knows it for one."""
        return [as_name(term) if term.lead and self._is_known(term) else term for term in listed]

    def _is_known(self, term: Term) -> bool:
        return not all(index.known.isdisjoint(term.forms) for index in self._indexes)

    def may_be_name(self, term: Term) -> bool:
        """Tell whether a word looks like a name and is in no source something else."""
        return term.lead == "name" and all(index.plain.isdisjoint(term.forms) for index in self._indexes)

    def has(self, term: Term) -> bool:
        """Tell whether any source has a form of a term."""
        return any(form in index.at for index in self._indexes for form in term.forms)

    def terms(self, place: int) -> list[Term]:
        """Return the terms of a place."""
        return self._at(place)[0].terms[self._at(place)[1]]

    def _at(self, place: int) -> tuple[SourceIndex, int]:
        """Return the index of a place's source, and which of its places it is."""
        first, index = self._sources[self.owners[place]]
        return index, place - first

    def misplaced(
        self, fact: Fact, words: Sequence[Term], places: Iterable[int], names: Mapping[str, Set[str]], forms: Set[str]
    ) -> bool:
        """Tell whether the source of these places, which have a fact, has another one beside some words.

        `names` and `forms` are those of the sentence that says them.
        """
        held = sorted(places)
        first, index = self._sources[self.owners[held[0]]]
        own = {place - first for place in held}
        return index.roles.misplaced(
            fact, words, own, lambda place: self.contradicts(first + place, names, forms, fact.forms)
        )

    def quoting(self, listed: Sequence[Term]) -> set[int]:
        """Return the sources that have these terms, one after the other."""
        said = wording(listed)
        return {source for source, index in enumerate(self._indexes) if said in index.wording}

    def holding(self, term: Term) -> list[int]:
        """Return the places that have a term, a number beside the right unit."""
        forms, number = term.forms, term.number
        found: list[int] = []
        for first, index in self._sources:  # each word of each sentence in each source: 0.2 µs
            known: list[int] = []
            for form in forms:
                if form in index.at:
                    places = index.at[form]
                    known = sorted({*known, *places}) if known and known != places else places
            if known:
                found += [first + place for place in (index.beside_its_unit(known, term) if number else known)]
        return found

    def contradicts(self, place: int, names: Mapping[str, Set[str]], forms: Set[str], own: Set[str]) -> bool:
        """Tell whether a place speaks of other things than a sentence.

        `names` are the sentence's names by kind, `forms` all its forms, `own` those of the term whose place it is.
        """
        index, at = self._at(place)
        spoken = index.names[at]
        if not spoken:
            return False
        proper = spoken.get(NAME, _NOTHING) | spoken.get(PERSON, _NOTHING)
        if proper and own.isdisjoint(proper) and forms.isdisjoint(proper):
            asked = (names.get(NAME, _NOTHING) | names.get(PERSON, _NOTHING)) - own
            if asked and not index.mentions(at, asked):
                return True
        return any(
            front and rivals - own and forms.isdisjoint(rivals - own) and index.named[at].isdisjoint(front)
            for kind, rivals in spoken.items()
            if kind not in _PROPER and (front := names.get(kind, _NOTHING) - own)
        )

    def rivals(self, place: int, kind: str) -> frozenset[str]:
        """Return the names of one kind that a place speaks of."""
        index, at = self._at(place)
        return index.names[at].get(kind, _NOTHING)


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


def _laid_out(source: str, spans: Sequence[tuple[int, int]]) -> tuple[list[list[Term]], list[list[int]]]:
    """Return each sentence's terms and their positions in the whole source."""
    read: list[list[Term]] = []
    positions: list[list[int]] = []
    offset = 0
    for start, end in spans:
        found, at = laid_out(source[start:end])
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
