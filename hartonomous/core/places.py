"""Where terms stand in the sources, and what the sentences that have them speak of.

A place is a sentence of a source. It speaks of the names that it begins with and of the codes in it, and where it has
none of a kind ("It weighs 3 kg") of its topic: those of the heading above it or of the sentence that last began with
one. A place contradicts a sentence when both have names of one kind (two product codes, two persons) and none is the
same: "3 kg" in a place that speaks of the HX-210 does not support "the HX-200 weighs 3 kg".
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import replace

from hartonomous.core.lexicon import PLACING
from hartonomous.core.quantities import LOOSE, SCALES
from hartonomous.core.sentences import sentences
from hartonomous.core.terms import CODE, IDENTIFIER, NAME, PERSON, SYMBOL, Term, terms

Names = dict[str, frozenset[str]]
"""Forms of names by their kind."""

_IN_FRONT = 3  # terms of a sentence, among which its subject is looked for
_REFERS_BACK = re.compile(
    r"\W*(?:it|its|they|their|he|she|his|her|this|these|those|such|both|er|sie|es|ihr|ihre|sein|seine|dies\w*|"
    r"elle|elles|il|ils|son|sa|ses|leur|leurs|ce|cette|ces|el|ella|su|sus)\b",
    re.IGNORECASE,
)
_SCALES = frozenset(f"e{power}" for power in SCALES.values())


_PROPER = frozenset((NAME, PERSON))


class Places:
    """The sentences of some sources, indexed by the forms of their terms."""

    __slots__ = ("_beside", "_fronted", "_known", "_named", "_names", "_plain", "_units", "at", "owners", "terms")

    def __init__(self, sources: Sequence[str]) -> None:
        self.owners: list[int] = []
        """Each place's source, from 0."""
        self.terms: list[list[Term]] = []
        """Each place's terms."""
        self.at: defaultdict[str, list[int]] = defaultdict(list)
        """The places that have a form."""
        self._names: list[Names] = []
        self._named: list[frozenset[str]] = []  # the forms of a place's own names
        self._fronted: list[bool] = []  # whether it begins with one
        self._beside: defaultdict[tuple[int, str], set[tuple[str | None, frozenset[str]]]] = defaultdict(set)
        self._units: set[tuple[int, str]] = set()  # the words that a source has beside numbers
        spans = [sentences(source) for source in sources]
        read = [
            [_read(source, start, end) for start, end in found] for source, found in zip(sources, spans, strict=True)
        ]
        everything = [
            term
            for source, found, listed in zip(sources, spans, read, strict=True)
            for (start, _), sentence in zip(found, listed, strict=True)
            if source[start] != "#"  # its capitals mean little
            for term in sentence
        ]
        self._plain = {form for term in everything if not term.hard and not term.lead for form in term.forms}
        self._known = {form for term in everything if term.hard and term.kind for form in term.forms}
        self._known |= {form for term in everything if self.may_be_name(term) for form in term.forms}
        for number, (source, found, listed) in enumerate(zip(sources, spans, read, strict=True)):
            self._add_source(number, source, found, [self.settled(place) for place in listed])

    def settled(self, listed: Sequence[Term]) -> list[Term]:
        """Return a sentence's terms; what may be a name is one where it is known for one."""
        return [term if not term.lead or self._known.isdisjoint(term.forms) else as_name(term) for term in listed]

    def may_be_name(self, term: Term) -> bool:
        """Tell whether a word looks like a name and is in no source something else."""
        return term.lead == "name" and self._plain.isdisjoint(term.forms)

    def _add_source(
        self, number: int, source: str, spans: Sequence[tuple[int, int]], listed: Sequence[Sequence[Term]]
    ) -> None:
        topic = _Topic(self._known)
        for (start, end), found in zip(spans, listed, strict=True):
            place = len(self.owners)
            self.owners.append(number)
            self.terms.append(list(found))
            self._names.append(topic.names(source[start:end], found))
            self._named.append(frozenset(form for term in found if term.hard for form in term.forms))
            self._fronted.append(source[start] == "#" or bool(subjects_of(found)))
            for term in found:
                self._add_term(term, number, place)

    def _add_term(self, term: Term, source: int, place: int) -> None:
        for form in (*(form for form in term.forms if not form.startswith(LOOSE)), *term.implied):
            places = self.at[form]
            if not places or places[-1] != place:
                places.append(place)
            if term.number:
                self._beside[place, form].add((term.unit, term.measures))
        if term.unit is not None:
            self._units.add((source, term.unit))

    def holding(self, term: Term) -> list[int]:
        """Return the places that have a term, a number beside the right unit."""
        found = sorted({place for form in term.forms for place in self.at.get(form, ())})
        return [place for place in found if self._fits(place, term)] if term.number else found

    def _fits(self, place: int, term: Term) -> bool:
        """Tell whether a number stands somewhere in a place with the unit that it is asked for with, or with none."""
        written = [beside for form in term.forms for beside in self._beside.get((place, form), ())]
        counts = term.unit is not None and (self.owners[place], term.unit) in self._units
        return not written or any(
            (not counts or unit in (None, term.unit)) and _agree(term.measures, measures, unit)
            for unit, measures in written
        )

    def contradicts(self, place: int, names: Mapping[str, Set[str]], forms: Set[str], own: Set[str]) -> bool:
        """Tell whether a place speaks of other things than a sentence.

        `names` are the sentence's names by kind, `forms` all its forms, `own` those of the term whose place it is.
        """
        spoken = self._names[place]
        proper = spoken.get(NAME, frozenset()) | spoken.get(PERSON, frozenset())
        asked = (set(names.get(NAME, ())) | set(names.get(PERSON, ()))) - own
        if asked and proper - own and forms.isdisjoint(proper - own) and not self._mentions(place, asked):
            return True
        return any(
            names.get(kind, frozenset()) - own and rivals - own and forms.isdisjoint(rivals - own)
            for kind, rivals in spoken.items()
            if kind not in _PROPER
        )

    def _mentions(self, place: int, names: Collection[str]) -> bool:
        """Tell whether a place has a name, or the one before it, where it goes on speaking of the same."""
        found = not self._named[place].isdisjoint(names)
        goes_on = place > 0 and self.owners[place - 1] == self.owners[place] and not self._fronted[place]
        return found or (goes_on and not self._named[place - 1].isdisjoint(names))

    def rivals(self, place: int, kind: str) -> frozenset[str]:
        """Return the names of one kind that a place speaks of."""
        return self._names[place].get(kind, frozenset())


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


def subjects_of(listed: Sequence[Term]) -> Names:
    """Return the names that a sentence begins with and speaks of: not "in Ulm"."""
    return names_of([term for term in listed[:_IN_FRONT] if term.after.lower() not in PLACING])


def _read(source: str, start: int, end: int) -> list[Term]:
    """Return a sentence's terms; only at a paragraph's start a first word is taken for a name for its looks."""
    listed = terms(source[start:end])
    if not listed or listed[0].lead != "name" or not source[:start].rstrip(" \t") or source[:start].endswith("\n\n"):
        return listed
    return [replace(listed[0], lead="word"), *listed[1:]]


def as_name(term: Term) -> Term:
    """Return a term that names something."""
    return replace(term, hard=True, kind=IDENTIFIER if term.lead == "identifier" else NAME)


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
    if units and others and units != others:
        return False
    return scales == other_scales or not scales or (not other_scales and unit is None)
