"""Which of a sentence's terms stand where in the sources, and the share of the sentence that each source has.

Support is the share of a sentence's terms that one source has: three quarters of it counts the best place in the
source (a sentence and its better neighbour), one quarter the whole source; hard terms count double.

Sets of terms are bits of a number, the lowest one for the first term: what a set weighs is two counts of bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from hartonomous.core.words import Term

THRESHOLD = 0.5
"""The support from which a sentence counts as supported."""

_PLACE, _WHOLE = 0.75, 0.25  # of a source's support: its best place, and all of it
_FOREIGN_CAP = 0.3  # of the support that is left when a hard term stands in no source
_SECOND_SOURCE = 0.25  # the share of a sentence that another source must hold, to be cited for a fact the first lacks
_MOST_SOURCES = 3
_TELLING = 4  # digits that together are in a source by no accident, whatever the words are


class Support:
    """The terms of a sentence (`wanted`) and the places that have each, places numbered through all sources.

    `owners` is each place's source (from 0), of which there are `count`. `by_source` is each one's own support.
    """

    __slots__ = ("_all", "_found", "_hard", "_held", "_owners", "_places", "_wanted", "by_source")

    def __init__(
        self, wanted: Sequence[Term], places: Sequence[Sequence[int]], owners: Sequence[int], count: int
    ) -> None:
        self._wanted = wanted
        self._found = places
        self._owners = owners
        self._places, self._hard, self._all = _laid_out(wanted, places)
        self._held, hard = [0] * count, self._hard
        best, weights = [-1] * count, [0] * count  # of each source the place that has most, the first of equals
        for place, terms in self._places.items():
            source, weight = owners[place], terms.bit_count() + (terms & hard).bit_count()
            self._held[source] |= terms
            if weight > weights[source] or (weight == weights[source] and place < best[source]):
                best[source], weights[source] = place, weight
        total = self._weight(self._all) or 1
        self.by_source = tuple(
            [
                (_PLACE * self._with_neighbour(place, weight) + _WHOLE * self._weight(held)) / total if held else 0.0
                for place, weight, held in zip(best, weights, self._held, strict=True)
            ]
        )

    def holders(self) -> tuple[frozenset[int], ...]:
        """Return the sources of each hard term."""
        if not self._hard:
            return ()
        owner = self._owners.__getitem__
        found = zip(self._wanted, self._found, strict=True)
        return tuple([frozenset(map(owner, places)) for term, places in found if term.hard])

    def has_figures(self) -> bool:
        """Tell whether each number, date and code stands in a source."""
        absent = self._all
        for held in self._held:
            absent &= ~held
        return not any(_is_figure(term) for at, term in enumerate(self._wanted) if absent >> at & 1)

    def choose(self) -> tuple[float, tuple[int, ...]]:
        """Return the support, and the sources (from 1) that together have every hard term of the sentence."""
        ranked = sorted(range(len(self.by_source)), key=self.by_source.__getitem__, reverse=True)
        if not ranked or not self.by_source[ranked[0]]:
            return 0.0, ()
        chosen = ranked[:1]
        absent = self._all & ~self._held[ranked[0]]
        for source in ranked[1:] if absent else ():
            new = absent & self._held[source]
            # One number from elsewhere may be about something else: another source must add what it is about, too.
            helps = new & self._hard and new.bit_count() > 1
            if helps and self.by_source[source] >= _SECOND_SOURCE and len(chosen) < _MOST_SOURCES:
                chosen.append(source)
                absent &= ~new
        support = self._together(chosen, absent)
        if absent and (absent & self._hard or self._is_bare(absent)):
            return support * _FOREIGN_CAP, ()
        return support, tuple([source + 1 for source in chosen]) if support >= THRESHOLD else ()

    def _weight(self, terms: int) -> int:
        """Return what some terms weigh: hard ones 2, others 1."""
        return terms.bit_count() + (terms & self._hard).bit_count()

    def _with_neighbour(self, place: int, most: int) -> int:
        """Return what a place weighs, which is `most` alone, together with the better one of its neighbours."""
        own, owners = self._places[place], self._owners
        for near in (place - 1, place + 1):
            if near in self._places and owners[near] == owners[place]:
                most = max(most, self._weight(own | self._places[near]))
        return most

    def _is_bare(self, absent: int) -> bool:
        """Tell whether a number is all there is: alone, with its unit, found among other words, it says nothing."""
        units = {term.unit for term in self._wanted if term.number}
        if not units:
            return False
        others, told = self._all, 0
        for at, term in enumerate(self._wanted):
            if term.number or not units.isdisjoint(term.forms):
                others &= ~(1 << at)
                told += sum(map(str.isdigit, term.forms[0]))
        return told < _TELLING and others != 0 and others & ~absent == 0

    def _together(self, chosen: Sequence[int], absent: int) -> float:
        """Return the support by the chosen sources: of several, the share of terms that they have between them."""
        if len(chosen) == 1:
            return self.by_source[chosen[0]]
        return 1.0 - self._weight(absent) / self._weight(self._all)


class Overlap(msgspec.Struct, frozen=True, gc=False):
    """The support of a sentence in which nothing is hard: no source can contradict it, so the one that has most counts.

    To be asked as `Support` is; `by_source` is each source's own support.
    """

    by_source: tuple[float, ...]

    def holders(self) -> tuple[frozenset[int], ...]:
        """Return the sources of each hard term: there is none."""
        return ()

    def has_figures(self) -> bool:
        """Tell whether each number, date and code stands in a source: there is none."""
        return True

    def choose(self) -> tuple[float, tuple[int, ...]]:
        """Return the support, and the source (from 1) that supports the sentence, if one does."""
        share = max(self.by_source, default=0.0)
        return share, (self.by_source.index(share) + 1,) if share >= THRESHOLD else ()


def share_of_words(wanted: Sequence[Term], at: Mapping[str, Sequence[int]]) -> float:
    """Return the support that a source gives to words of which none is hard or a number, as `Support` weighs it.

    `at` are the source's places of each form.
    """
    found: dict[int, int] = {}  # the words that each place has
    bit = 1
    for term in wanted:
        for form in term.forms:
            for place in at.get(form, ()):
                found[place] = found.get(place, 0) | bit
        bit <<= 1
    if not found:
        return 0.0
    best, weight, held = -1, 0, 0
    for place, words in found.items():
        held |= words
        count = words.bit_count()
        if count > weight or (count == weight and place < best):
            best, weight = place, count
    beside = max([(found[best] | found.get(near, 0)).bit_count() for near in (best - 1, best + 1)])
    return (_PLACE * beside + _WHOLE * held.bit_count()) / len(wanted)


def _laid_out(wanted: Sequence[Term], places: Sequence[Sequence[int]]) -> tuple[dict[int, int], int, int]:
    """Return the terms of each place, the hard ones, and all."""
    found: dict[int, int] = {}
    hard, bit = 0, 1
    for term, having in zip(wanted, places, strict=True):
        if term.hard:
            hard |= bit
        for place in having:
            found[place] = found.get(place, 0) | bit
        bit <<= 1
    return found, hard, bit - 1


def _is_figure(term: Term) -> bool:
    return term.hard and not term.forms[0].isalpha()
