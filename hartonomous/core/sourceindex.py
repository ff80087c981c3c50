"""One source's sentences, indexed by the forms of their terms, with what each of them speaks of.

A place is a sentence of a source. It speaks of the names that it begins with and of the codes in it, and where it has
none of a kind ("It weighs 3 kg") of its topic: those of the heading above it or of the sentence that last began with
one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from itertools import chain
from typing import NamedTuple

from msgspec import structs

from hartonomous.core.chunks import FORMS
from hartonomous.core.quantities import LOOSE, SCALES
from hartonomous.core.roles import Fact, Roles, facts_of
from hartonomous.core.sentences import sentences
from hartonomous.core.terms import laid_out, measures_of
from hartonomous.core.topics import Names, Topic, settled, subjects_of
from hartonomous.core.words import Readings, Term

_SCALES = frozenset(f"e{power}" for power in SCALES.values())
_APART = 6  # positions between two sentences
_LONGEST_KEPT, _MOST_KEPT = 4_000, 300_000  # characters


class _Use(NamedTuple):
    """How a source uses a form: as that of a name, and somewhere as that of a word that is none."""

    named: bool
    plain: bool


class SourceIndex:
    """The sentences of one source, indexed by the forms of their terms.

    Nothing is looked for before it is asked for: what quotes the source alone needs its sentences and no forms. A
    sentence is read (`laid_out`) where its words do not tell its forms, and else when more is asked of it.
    """

    __slots__ = (
        "_alone",
        "_beside",
        "_facts",
        "_kinds",
        "_leads",
        "_named",
        "_names",
        "_roles",
        "_source",
        "_spans",
        "_terms",
        "_topic",
        "_units",
        "_used",
        "_wording",
        "at",
        "place_of",
    )

    def __init__(self, source: str) -> None:
        self._source = source
        self._spans: Sequence[tuple[int, int]] = ()
        self._alone: list[tuple[list[Term], list[int]] | None] = []
        self._terms: list[list[Term] | None] = []
        self._named: list[frozenset[str] | None] = []
        self._names: list[Names] = []
        self._topic = Topic()
        # Where only the first word may have a capital, and none figures, there are no hard terms unless it is a name.
        self._leads: list[tuple[str, ...] | None] = []
        self._facts: list[Fact] | None = None
        self._kinds: list[str] = []
        self._used: dict[str, _Use] = {}
        self._beside: dict[tuple[int, str], list[tuple[str | None, frozenset[str]]]] = {}
        self._units: frozenset[str] | None = None
        self._wording: str | None = None
        self._roles: Roles | None = None
        self.place_of: dict[str, int] = {}
        """The place of each sentence."""
        self.at: dict[str, tuple[int, ...]] = {}
        """The places that have a form."""

    def says(self, sentence: str) -> bool:
        """Tell whether this is one of the sentences, and has terms; takes a quarter of what `read` takes."""
        if sentence not in self._source:
            return False
        if not self._spans:
            self._cut()
        place = self.place_of.get(sentence)
        return place is not None and bool((self._alone[place] or self.alone(place))[0])

    def read(self) -> None:
        """Find the forms, before anything but `says` is asked."""
        if not self._spans:
            self._cut()
        if not self._leads:
            self._find_forms()

    def _cut(self) -> None:
        self._spans = sentences(self._source)
        count = len(self._spans)
        self._alone, self._terms, self._named = [None] * count, [None] * count, [None] * count
        self.place_of = {self._source[start:end]: place for place, (start, end) in enumerate(self._spans)}

    def _find_forms(self) -> None:
        at = self.at
        for place, (start, end) in enumerate(self._spans):
            sentence = self._source[start:end]
            found = list(map(FORMS.__getitem__, sentence.split()))
            known = None not in found
            forms = chain.from_iterable(filter(None, found) if known else self._forms(place))
            bare = known and sentence[1:].islower() and sentence[0] != "#"
            self._leads.append(None if not bare else (found[0] or ()) if sentence[0].isupper() else ())
            here: tuple[int, ...] = (place,)  # the same for all forms: most stand in one place
            new = dict.fromkeys(forms, here)
            for form in at.keys() & new.keys():
                new[form] = at[form] + here
            at.update(new)

    def _forms(self, place: int) -> list[Sequence[str]]:
        """Return the forms under which the terms of a place are found, of each term its own."""
        return [_indexed(term) if term.hard or term.implied else term.forms for term in self.alone(place)[0]]

    def __len__(self) -> int:
        """Return how many places there are."""
        return len(self._spans)

    def alone(self, place: int) -> tuple[list[Term], list[int]]:
        """Return a sentence's terms and their positions, as they are without those around it."""
        read = self._alone[place]
        if read is None:
            start, end = self._spans[place]
            sentence = self._source[start:end]
            # All parts of a document stand under the same headings.
            read = self._alone[place] = _HEADINGS[sentence] if sentence[0] == "#" else laid_out(sentence)
        return read

    def _in_place(self, place: int) -> list[Term]:
        return _at_start(self._source, self._spans[place][0], self.alone(place)[0])

    def terms(self, place: int) -> list[Term]:
        """Return a place's terms."""
        found = self._terms[place]
        if found is None:
            found = self._terms[place] = settled(self._in_place(place), self.knows)
        return found

    def knows(self, forms: Iterable[str]) -> bool:
        """Tell whether one of some forms is that of a name."""
        at, used = self.at, self._used  # no generator: each word that may be a name is asked for in each source
        return True in [form in at and (used.get(form) or self._use(form)).named for form in forms]

    def has_plain(self, forms: Iterable[str]) -> bool:
        """Tell whether one of some forms is that of a word that is no name."""
        return any(form in self.at and self._use(form).plain for form in forms)

    def _use(self, form: str) -> _Use:
        use = self._used.get(form)
        if use is None:
            use = self._used[form] = self._found_use(form)
        return use

    def _found_use(self, form: str) -> _Use:
        """Return how the places that have a form use it, headings left out: their capitals mean little."""
        told = [place for place in self.at[form] if self._source[self._spans[place][0]] != "#"]
        ordinary = [place for place in told if (lead := self._leads[place]) is not None and form not in lead]
        leading = [place for place in told if form in (self._leads[place] or ())]
        read = [place for place in told if self._leads[place] is None]
        if not ordinary:
            read += leading  # else what leads is no name
        found = [term for place in read for term in self._in_place(place) if form in term.forms]
        plain = bool(ordinary) or any(not (term.hard or term.lead) for term in found)
        if any(term.hard and term.kind for term in found):
            return _Use(named=True, plain=plain)
        return _Use(named=not plain and any(term.lead == "name" for term in found), plain=plain)

    def _firm(self, place: int) -> Sequence[Term]:
        """Return the terms of a place if there may be hard ones."""
        lead = self._leads[place]
        return self.terms(place) if lead is None or self.knows(lead) else ()

    def names(self, place: int) -> Names:
        """Return what a place speaks of."""
        for at in range(len(self._names), place + 1):
            start, end = self._spans[at]
            self._names.append(self._topic.names(self._source[start:end], self._firm(at), self.knows))
        return self._names[place]

    def named(self, place: int) -> frozenset[str]:
        """Return the forms of a place's own names."""
        forms = self._named[place]
        if forms is None:
            forms = frozenset([form for term in self._firm(place) if term.hard for form in term.forms])
            self._named[place] = forms
        return forms

    def quotes(self, listed: Sequence[Term]) -> bool:
        """Tell whether the source has these terms, one after the other."""
        if not listed:
            return True
        at = self.at
        if False in [term.forms[0] in at for term in listed]:
            return False
        said = wording(listed)
        places = [at[term.forms[0]] for term in listed]
        if any(said in wording(self.alone(place)[0]) for place in min(places, key=len)):
            return True
        if self._wording is None:
            self._wording = wording(term for place in range(len(self)) for term in self.alone(place)[0])
        return said in self._wording

    def has_rivals(self, fact: Fact, places: Set[int]) -> bool:
        """Tell whether there are more facts of the kind of one than these places have of it."""
        if self._facts is None:
            every = map(self._firm, range(len(self)))
            self._facts = facts_of([(found, range(len(found))) for found in every])
            self._kinds = [other.kind for other in self._facts]
        own = [other for form in fact.forms for other in self._facts if form in other.forms and other.place in places]
        return sum(map(self._kinds.count, {other.kind for other in own})) > len(own)

    @property
    def roles(self) -> Roles:
        """What each fact stands beside."""
        if self._roles is None:
            every = range(len(self))
            named, found = [*map(self.named, every)], [*map(self.terms, every)]
            above = _under(self._spans, self._source, named)
            spoken = [head.union(*names.values()) for head, names in zip(above, map(self.names, every), strict=True)]
            positions = _positions(self._source, self._spans, [self.alone(place)[1] for place in every])
            self._roles = Roles(found, positions, spoken)
        return self._roles

    def _begins_with_name(self, place: int) -> bool:
        return self._source[self._spans[place][0]] == "#" or bool(subjects_of(self.terms(place)))

    def beside_its_unit(self, places: Iterable[int], term: Term) -> list[int]:
        """Return those of the places of a number that have it beside the right unit."""
        return [place for place in places if self._fits(place, term)]

    def _fits(self, place: int, term: Term) -> bool:
        """Tell whether a number stands somewhere in a place with the unit that it is asked for with, or with none."""
        written = [(measures_of(term, form), *beside) for form in term.forms for beside in self._units_of(place, form)]
        return not written or any(
            (unit in (None, term.unit) or term.unit is None or not self._has_unit(term.unit))
            and _agree(asked, measures, unit)
            for asked, unit, measures in written
        )

    def _units_of(self, place: int, form: str) -> list[tuple[str | None, frozenset[str]]]:
        """Return the units and measures beside a number of a place."""
        if place not in self.at.get(form, ()):
            return []
        found = self._beside.get((place, form))
        if found is None:
            found = self._beside[place, form] = [
                (term.unit, measures_of(term, form))
                for term in self.alone(place)[0]
                if term.number and form in (_indexed(term) if term.hard or term.implied else term.forms)
            ]
        return found

    def _has_unit(self, unit: str) -> bool:
        if self._units is None:  # whatever has a number has been read
            read = [found[0] for found in self._alone if found is not None]
            self._units = frozenset([term.unit for found in read for term in found if term.unit is not None])
        return unit in self._units

    def mentions(self, place: int, names: Collection[str]) -> bool:
        """Tell whether a place has a name, or the one before it, where it goes on speaking of the same."""
        found = not self.named(place).isdisjoint(names)
        goes_on = place > 0 and not self._begins_with_name(place)
        return found or (goes_on and not self.named(place - 1).isdisjoint(names))


_HEADINGS = Readings(laid_out, most=1_024)


class _Kept(dict[str, SourceIndex]):
    """Sources with their indexes, the one that was asked for last at the end; `size` is their characters."""

    size = 0


_kept = _Kept()


def indexes_of(sources: Iterable[str]) -> list[SourceIndex]:
    """Return sources' indexes; those of the last sources are kept, for the same chunk is asked about again and again.

    Kept are texts of at most 4,000 characters, 300,000 in all: when they are read their indexes take 12 bytes a
    character, 56 where facts were looked for in them, so some 17 MB; texts of short words alone, or of characters that
    are words, come to 100 MB. To read a text of 870 characters takes 0.2 ms. Not for several threads.
    """
    found: list[SourceIndex] = []
    for source in sources:
        index = _kept.pop(source, None)
        if index is None:
            index = SourceIndex(source)
            _make_room(len(source))
        if len(source) <= _LONGEST_KEPT:
            _kept[source] = index
        found.append(index)
    return found


def _make_room(size: int) -> None:
    """Let go of what was not asked for the longest, for another source of a size that is kept."""
    if size > _LONGEST_KEPT:
        return
    _kept.size += size
    while _kept.size > _MOST_KEPT:
        oldest = next(iter(_kept))
        _kept.size -= len(oldest)
        del _kept[oldest]


def wording(listed: Iterable[Term]) -> str:
    """Return terms as one string, in which others are found as a part."""
    return "".join([f" {term.forms[0]} " for term in listed])


def _positions(source: str, spans: Sequence[tuple[int, int]], alone: Iterable[list[int]]) -> list[list[int]]:
    """Return the positions of each sentence's terms in the whole source."""
    positions: list[list[int]] = []
    offset = 0
    for (start, end), at in zip(spans, alone, strict=True):
        positions.append([offset + position for position in at])
        # What follows a question or a colon belongs to it.
        offset += (at[-1] if at else 0) + (2 if source[max(start, end - 3) : end].rstrip("*_")[-1:] in "?:" else _APART)
    return positions


def _under(spans: Sequence[tuple[int, int]], source: str, named: Sequence[frozenset[str]]) -> Iterator[frozenset[str]]:
    """Yield the names and numbers of the last heading above each sentence."""
    head: frozenset[str] = frozenset()
    for (start, _), own in zip(spans, named, strict=True):
        yield head
        if source[start] == "#":
            head = own


def _indexed(term: Term) -> list[str]:
    """Return the forms under which a term of a source is found."""
    return [*[form for form in term.forms if not form.startswith(LOOSE)], *term.implied]


def _at_start(source: str, start: int, listed: list[Term]) -> list[Term]:
    """Return a sentence's terms; only at a paragraph's start a first word is taken for a name for its looks."""
    if not listed or listed[0].lead != "name" or not source[:start].rstrip(" \t") or source[:start].endswith("\n\n"):
        return listed
    return [structs.replace(listed[0], lead="word"), *listed[1:]]


def _agree(one: frozenset[str], other: frozenset[str], unit: str | None) -> bool:
    """Tell whether a number with some measures can be one with others, and beside a unit, in a source.

    Two units exclude each other, and two scales; "420 million" is not "420 workers", but may be the 420 of a table.
    """
    units, others = one - _SCALES, other - _SCALES
    scales, other_scales = one & _SCALES, other & _SCALES
    if units and others and units.isdisjoint(others):
        return False
    return scales == other_scales or not scales or (not other_scales and unit is None)
