"""Where terms stand in the sources, and what the sentences that have them speak of (`hartonomous.core.sourceindex`).

A place contradicts a sentence when both have names of one kind (two product codes, two persons) and none is the same:
"3 kg" in a place that speaks of the HX-210 does not support "the HX-200 weighs 3 kg".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set

from hartonomous.core.roles import Fact
from hartonomous.core.sourceindex import SourceIndex, indexes_of
from hartonomous.core.support import share_of_words
from hartonomous.core.terms import laid_out
from hartonomous.core.topics import as_name
from hartonomous.core.words import NAME, PERSON, Term

_NOTHING: frozenset[str] = frozenset()
_PROPER = frozenset((NAME, PERSON))


class Places:
    """The places of several sources, numbered through."""

    __slots__ = ("_sources", "indexes", "owners")

    def __init__(self, sources: Sequence[str]) -> None:
        self.indexes = indexes_of(sources)
        """Each source's index; `says` may be asked of it before `lay_out`."""
        self._sources: list[tuple[int, SourceIndex, Callable[[Iterable[str]], bool]]] = []
        self.owners: list[int] = []
        """Each place's source, from 0."""

    def lay_out(self) -> None:
        """Read all sources and number their places through, before anything but `says` is asked."""
        if self._sources:
            return
        for number, index in enumerate(self.indexes):
            index.read()
            self._sources.append((len(self.owners), index, index.at.keys().isdisjoint))
            self.owners += [number] * len(index)

    def read(self, sentence: str) -> tuple[Sequence[Term], Sequence[int]]:
        """Return the terms of a sentence and their positions; one that stands so in a source has been read already."""
        for index in self.indexes:
            if sentence in index.place_of:
                return index.alone(index.place_of[sentence])
        return laid_out(sentence)

    def settled(self, listed: Sequence[Term]) -> list[Term]:
        """Return a sentence's terms; what may be a name is one where a source knows it for one."""
        return [as_name(term) if term.lead and self._is_known(term) else term for term in listed]

    def _is_known(self, term: Term) -> bool:
        return True in [index.knows(term.forms) for index in self.indexes]

    def may_be_name(self, term: Term) -> bool:
        """Tell whether a word looks like a name and is in no source something else."""
        return term.lead == "name" and not any(index.has_plain(term.forms) for index in self.indexes)

    def has(self, term: Term) -> bool:
        """Tell whether any source has a form of a term."""
        return any(form in index.at for index in self.indexes for form in term.forms)

    def terms(self, place: int) -> list[Term]:
        """Return the terms of a place."""
        index, at = self._at(place)
        return index.terms(at)

    def _at(self, place: int) -> tuple[SourceIndex, int]:
        """Return the index of a place's source, and which of its places it is."""
        first, index, _ = self._sources[self.owners[place]]
        return index, place - first

    def misplaced(
        self,
        fact: Fact,
        words: Callable[[], Sequence[Term]],
        places: Iterable[int],
        names: Mapping[str, Set[str]],
        forms: Set[str],
    ) -> bool:
        """Tell whether the source of these places, which have a fact, has another one beside some words.

        `words` returns the words, `names` and `forms` are those of the sentence that says them.
        """
        held = sorted(places)
        first, index, _ = self._sources[self.owners[held[0]]]
        own = {place - first for place in held}
        if not index.has_rivals(fact, own):
            return False  # most are settled so: to lay out all of a source takes 0.4 ms
        return index.roles.misplaced(
            fact, words, own, lambda place: self.contradicts(first + place, names, forms, fact.forms)
        )

    def holding(self, wanted: Iterable[Term]) -> list[list[int]]:
        """Return for each term the places that have it, a number beside the right unit."""
        holding: list[list[int]] = []
        for term in wanted:
            forms = term.forms
            found: list[int] = []
            for first, index, lacks in self._sources:  # each word of each sentence in each source: 0.1 µs
                if lacks(forms):
                    continue
                known: Sequence[int] = ()
                for form in forms:
                    if form in index.at:
                        places = index.at[form]
                        known = sorted({*known, *places}) if known and known != places else places
                found += map(first.__add__, index.beside_its_unit(known, term) if term.number else known)
            holding.append(found)
        return holding

    def share(self, source: int, wanted: Sequence[Term]) -> float:
        """Return the support that a source gives to words of which none is hard or a number."""
        return share_of_words(wanted, self.indexes[source].at)

    def contradicts(self, place: int, names: Mapping[str, Set[str]], forms: Set[str], own: Set[str]) -> bool:
        """Tell whether a place speaks of other things than a sentence.

        `names` are the sentence's names by kind, `forms` all its forms, `own` those of the term whose place it is.
        """
        index, at = self._at(place)
        spoken = index.names(at)
        if not spoken:
            return False
        proper = spoken.get(NAME, _NOTHING) | spoken.get(PERSON, _NOTHING)
        if proper and own.isdisjoint(proper) and forms.isdisjoint(proper):
            asked = (names.get(NAME, _NOTHING) | names.get(PERSON, _NOTHING)) - own
            if asked and not index.mentions(at, asked):
                return True
        return any(
            front and rivals - own and forms.isdisjoint(rivals - own) and index.named(at).isdisjoint(front)
            for kind, rivals in spoken.items()
            if kind not in _PROPER and (front := names.get(kind, _NOTHING) - own)
        )

    def rivals(self, place: int, kind: str) -> frozenset[str]:
        """Return the names of one kind that a place speaks of."""
        index, at = self._at(place)
        return index.names(at).get(kind, _NOTHING)
