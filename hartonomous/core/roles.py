"""Which words of a text a fact stands beside, compared with the words that a sentence puts it beside.

A fact is a number, a date, a name or a code. A sentence has it in a false role when a source has another fact of the
same kind nearer to the sentence's words: "the deposit is 40 euros" where the source says "a deposit of 90 euros and a
rent of 40 euros". Nearness is counted in content words, marks and conjunctions between them counted as some more; a
word is worth `1 / (1 + distance / 2)` to a fact, a hard one the double. Facts next to each other ("from 10 to 20 kg",
"in Lyon and Turin") share their words.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set

import msgspec

from hartonomous.core.lexicon import PLACING
from hartonomous.core.quantities import SCALES, UNITS
from hartonomous.core.words import NAME, PERSON, Term

_REACH = 24  # places in the text, beyond which a word says nothing about a fact
_TOPIC = 3  # how far what a sentence speaks of, without naming it, is from its facts
_HALF = 2  # the distance at which a word is worth half
_CLEARLY = 0.2  # by how much another fact must be nearer
_UNSURE = frozenset((PERSON, "place"))
_IN_SENTENCE = 1.5  # times nearer, where the sentence has the other one of these as well
_MEASURES = frozenset(UNITS.values())
_SCALES = frozenset(f"e{power}" for power in SCALES.values())
_YEAR = re.compile(r"1[0-9]{3}|20[0-9]{2}")


class Fact(msgspec.Struct, frozen=True, gc=False):
    """A fact of a text: its forms, its kind, the first and last position of it and the facts that it stands among."""

    forms: frozenset[str]
    kind: str
    start: int
    end: int
    place: int

    def distance(self, position: int) -> int:
        """Return how far a position is from the fact."""
        return max(self.start - position, position - self.end, 0)


def kind_of(term: Term) -> str:
    """Return what kind of fact a term is: facts of one kind can be taken for each other; empty for none."""
    if not term.hard:
        return ""
    if term.kind in (NAME, PERSON):
        return "place" if term.after.lower() in PLACING else term.kind
    if term.kind:
        return term.kind
    form = term.forms[0]
    if term.number:
        return _kind_of_number(term)
    if form[0].isalpha():
        return ""
    return "date" if "-" in form else "time" if ":" in form else "year"


def _kind_of_number(term: Term) -> str:
    units = term.measures - _SCALES if term.measures else None
    if units:
        return f"number {min(units)}"
    if term.forms[0].count(".") > 1:
        return "version"
    return "year" if len(term.forms) == 1 and _YEAR.fullmatch(term.forms[0]) else "number"


def facts_of(places: Iterable[tuple[Sequence[Term], Sequence[int]]]) -> list[Fact]:
    """Return the facts of a text's sentences, each given as its terms and their positions."""
    return [fact for place, (found, at) in enumerate(places) for fact in _facts(place, found, at)]


def _facts(place: int, found: Sequence[Term], at: Sequence[int]) -> list[Fact]:
    runs: list[list[Fact]] = []
    group = -1
    for term, position in zip(found, at, strict=True):
        kind = kind_of(term) if term.hard else ""  # most are not
        if not kind:
            if _MEASURES.isdisjoint(term.forms):
                runs.append([])
            continue
        fact = Fact(frozenset((*term.forms, *term.implied)), kind, position, position, place)
        if not runs or not runs[-1] or runs[-1][-1].kind != kind:
            runs.append([fact])
        elif term.group >= 0 and term.group == group:
            last = runs[-1].pop()
            runs[-1].append(Fact(last.forms | fact.forms, kind, last.start, position, place))
        else:
            runs[-1].append(fact)
        group = term.group
    return [Fact(fact.forms, fact.kind, run[0].start, run[-1].end, place) for run in runs if run for fact in run]


class Roles:
    """The facts of a source, and where its words stand."""

    __slots__ = ("_at", "_having", "_of_kind", "_spoken", "_starts")

    def __init__(
        self,
        places: Sequence[Sequence[Term]],
        positions: Sequence[Sequence[int]],
        spoken: Sequence[frozenset[str]],
    ) -> None:
        """Index the sentences of a source: their terms, the positions of those, and what each speaks of."""
        self._at: defaultdict[str, list[int]] = defaultdict(list)
        self._of_kind: defaultdict[str, list[Fact]] = defaultdict(list)
        self._having: defaultdict[str, list[Fact]] = defaultdict(list)
        for fact in facts_of(zip(places, positions, strict=True)):
            self._of_kind[fact.kind].append(fact)
            for form in fact.forms:
                self._having[form].append(fact)
                self._at[form] += (fact.start, fact.end)
        self._starts = [at[0] if at else 0 for at in positions]
        self._spoken = spoken
        for found, at in zip(places, positions, strict=True):
            for term, position in zip(found, at, strict=True):
                for form in (*term.forms, *term.implied):
                    self._at[form].append(position)

    def misplaced(
        self, fact: Fact, words: Callable[[], Sequence[Term]], places: Set[int], closed: Callable[[int], bool]
    ) -> bool:
        """Tell whether another fact of the kind stands nearer to some words than this one does in these places.

        `words` returns the words, `closed` tells of a place whether it speaks of something else.
        """
        own = [other for form in fact.forms for other in self._having.get(form, ()) if other.place in places]
        rivals = [other for kind in {other.kind for other in own} for other in self._of_kind[kind]]
        if len(rivals) <= len(own):
            return False
        own += self._told_of(fact)
        said = [_said(term, self._positions(term)) for term in words()]
        held = max(self._nearness(one, said) for one in own)
        if held + _CLEARLY >= sum(word.weight for word in said if word.positions):
            return False
        return any(
            fact.forms.isdisjoint(rival.forms)
            and self._is_nearer(rival, fact, own, said, held)
            and not closed(rival.place)
            for rival in rivals
        )

    def _is_nearer(self, rival: Fact, fact: Fact, own: Sequence[Fact], said: Sequence[_Said], held: float) -> bool:
        """Tell whether a rival is nearer to some words than `own`, where a fact stands; `held` is how near that is."""
        if not fact.forms.isdisjoint(self._spoken[rival.place]):
            return False  # it says this of the fact
        known = [word for word in said if not word.forms.isdisjoint(rival.forms)]
        if any(word.kind != fact.kind for word in known):
            return False  # the sentence says it as well, of something else
        if known and fact.kind == NAME:
            return False  # of names beside each other one cannot tell which are of a kind
        if known:
            said = [word for word in said if word not in known]
            held = max(self._nearness(one, said) for one in own) * (_IN_SENTENCE if fact.kind in _UNSURE else 1.0)
        return self._nearness(rival, said) > held + _CLEARLY

    def _told_of(self, fact: Fact) -> Iterator[Fact]:
        """Yield a name before each sentence that speaks of it without naming it."""
        for place, (start, names) in enumerate(zip(self._starts, self._spoken, strict=True)):
            if not names.isdisjoint(fact.forms):
                yield Fact(fact.forms, fact.kind, start - _TOPIC, start - _TOPIC, place)

    def _positions(self, term: Term) -> list[int]:
        return sorted({position for form in term.forms for position in self._at.get(form, ())})

    def _nearness(self, fact: Fact, said: Iterable[_Said]) -> float:
        """Return how much the text puts a fact beside some words."""
        near = 0.0
        for word in said:
            distance = _distance(fact, word.positions)
            if distance > _TOPIC and not word.forms.isdisjoint(self._spoken[fact.place]):
                distance = _TOPIC
            if distance < _REACH:
                near += word.weight * _HALF / (_HALF + distance)
        return near


def _distance(fact: Fact, positions: Sequence[int]) -> int:
    """Return how far the nearest of some positions, in order, is from a fact."""
    after = bisect_left(positions, fact.start)
    behind = max(positions[after] - fact.end, 0) if after < len(positions) else _REACH
    return min(behind, fact.start - positions[after - 1]) if after else behind


class _Said(msgspec.Struct, frozen=True, gc=False):
    """A word that a sentence says of a fact: its forms, its positions in a source, its weight, and kind as a fact."""

    forms: frozenset[str]
    positions: Sequence[int]
    weight: float
    kind: str


def _said(term: Term, positions: Sequence[int]) -> _Said:
    return _Said(frozenset(term.forms), positions, 2.0 if term.hard else 1.0, kind_of(term))


def beside(fact: Fact, facts: Sequence[Fact], found: Sequence[Term], at: Sequence[int]) -> list[Term]:
    """Return the terms of a sentence that it says of this fact and not of another one of the kind."""
    others = [
        other for other in facts if other.kind == fact.kind and (other.start, other.end) != (fact.start, fact.end)
    ]
    listed = {
        term.forms: term
        for term, position in zip(found, at, strict=True)
        if all(fact.distance(position) < (other.distance(position) or _REACH) for other in others)
    }
    units = {term.unit for term in found if not fact.forms.isdisjoint(term.forms)}
    return [term for term in listed.values() if fact.forms.isdisjoint(term.forms) and units.isdisjoint(term.forms)]
