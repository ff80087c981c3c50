"""How far the sources support a sentence: overlap of words, numbers and names with the sources' own sentences.

Support is the share of a sentence's terms that one source has: three quarters of it counts the best place in the
source (a sentence and its better neighbour), one quarter the whole source; hard terms count double. A hard term that
stands in no source caps the support under the threshold: the sentence claims what nobody wrote. So does one that
stands there beside other things:

- A number needs its unit: "40 kg" is supported neither by "$40" nor by "3 kg". Units and scales exclude each other.
- A place that speaks of a rival does not count: of another product, person or firm (`hartonomous.core.places`).
- A fact does not count where the source has another one of its kind nearer to the sentence's words
  (`hartonomous.core.roles`): the 500 of a port is no timeout's.
- A word that may be a name is one where the best place has another name instead of it.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise

from hartonomous.core.places import Names, Places, as_name, names_of, subjects_of
from hartonomous.core.roles import beside, facts_of, kind_of
from hartonomous.core.terms import laid_out
from hartonomous.core.words import NAME, PERSON, Term

THRESHOLD = 0.5
"""The support from which a sentence counts as supported."""

_FOREIGN_CAP = 0.3  # of the support that is left when a hard term stands in no source
_SECOND_SOURCE = 0.25  # the share of a sentence that another source must hold, to be cited for a fact the first lacks
_MOST_SOURCES = 3
_TELLING = 4  # digits that together are in a source by no accident, whatever the words are
_LONG = 24  # words, from which a sentence can be one that goes round in circles
_VARIETY = 0.3  # the least share of different words in it
_WORD = re.compile(r"\w+")
_VERBATIM = 0.95  # of a sentence's terms: it stands in the source as it is

_GREETING = re.compile(
    r"\W*+(?:hi|hello|hey|sure|certainly|of course|thanks|thank you|you're welcome|sorry|great question|"
    r"let me know|feel free|i hope|hallo|guten tag|gerne|bonjour|hola)\b",
    re.IGNORECASE,
)
_NOT = r"(?:do not|don't|does not|doesn't|did not|didn't|cannot|can't|could not|couldn't|am not|'m not)"
_KNOWS = r"(?:know|find|answer|tell|say|see|determine|sure|have (?:any |enough )?information)"
_SAYS = r"(?:answer|say|mention|contain|provide|state|specify|include|cover|address|describe|tell|indicate)"
_REFUSAL = re.compile(
    rf"\b(?:i|we) ?{_NOT}\b.{{0,40}}\b{_KNOWS}\b"
    rf"|\b(?:sources?|documents?|texts?|context|passages?|information|it)\b.{{0,40}}\b{_NOT}\b.{{0,20}}\b{_SAYS}\b"
    r"|\bno (?:relevant |such )?(?:information|mention|answer)\b"
    r"|\bnot (?:mentioned|stated|specified|provided|answered|given|covered)\b"
    r"|\bnothing in the (?:documents|sources)\b"
    r"|\b(?:quellen?|dokumente?)\b.{0,60}\b(?:nicht|keine?)\b|\bich wei(?:ß|ss) (?:es )?nicht\b",
    re.IGNORECASE,
)


@dataclass(slots=True, frozen=True)
class Verdict:
    """What the sources say to one sentence.

    `support` is 0..1, `sources` the numbers (from 1) of those that support it, best first, `by_source` each one's
    own support. `foreign`: a hard term stands in no source. `claims` is false for questions, greetings, "I don't
    know" and what has no content; `admits` is true for "I don't know" without a foreign number or code in it. `hard`
    are the sources (from 0) of each hard term.
    """

    support: float
    sources: tuple[int, ...]
    by_source: tuple[float, ...]
    foreign: bool
    claims: bool
    admits: bool
    hard: tuple[frozenset[int], ...] = ()

    def backed_by(self, markers: Iterable[int]) -> bool:
        """Tell whether every hard term stands in one of these sources (numbers from 1)."""
        cited = {marker - 1 for marker in markers}
        return all(holders & cited for holders in self.hard)

    @property
    def supported(self) -> bool:
        """Whether the sentence stands in the sources."""
        return self.claims and self.support >= THRESHOLD


class Grounding:
    """The sources of one answer; `judge` costs some microseconds a word."""

    __slots__ = ("_count", "_places")

    def __init__(self, sources: Sequence[str]) -> None:
        self._count = len(sources)
        self._places = Places(sources)

    def judge(self, sentence: str) -> Verdict:
        """Weigh one sentence (without markers) against the sources."""
        found, at = laid_out(sentence)
        listed = self._places.settled(found)
        wanted, places = self._agreeing(list({term.forms: term for term in listed}.values()))
        places = self._in_their_roles(wanted, places, listed, at)
        holders = [{self._places.owners[place] for place in found} for found in places]
        by_source = self._by_source(wanted, places, holders)
        # "It does not cover pens" is no "I don't know" when it stands so in a source.
        admits = _admits(sentence) and max(by_source, default=0.0) < _VERBATIM
        claims = bool(wanted) and not admits and not _is_talk(sentence)
        hard = tuple(frozenset(found) for term, found in zip(wanted, holders, strict=True) if term.hard)
        if _repeats_itself(sentence):
            return Verdict(0.0, (), (0.0,) * self._count, True, claims, False, hard)
        if admits:
            # The name that was asked for may be repeated; a number or a code would be a claim.
            admits = all(found or not _is_figure(term) for term, found in zip(wanted, holders, strict=True))
        support, chosen = self._choose(by_source, wanted, holders) if claims else (0.0, ())
        return Verdict(support, chosen, by_source, not all(hard), claims, admits, hard)

    def _agreeing(self, wanted: Sequence[Term]) -> tuple[list[Term], list[list[int]]]:
        """Return the terms, and for each the places that have it and speak of what the sentence speaks of."""
        places = [self._places.holding(term) for term in wanted]
        wanted = self._with_replaced_names(wanted, places)
        forms = {form for term in wanted for form in term.forms}
        names = _spoken_of(wanted)
        agreeing: list[list[int]] = []
        for term, found in zip(wanted, places, strict=True):
            if term.hard and found:
                own = set(term.forms) | {form for other in wanted if _is_one_name(other, term) for form in other.forms}
                others = forms - own
                agreeing.append([place for place in found if not self._places.contradicts(place, names, others, own)])
            else:
                agreeing.append(list(found))
        return wanted, agreeing

    def _in_their_roles(
        self, wanted: Sequence[Term], places: Sequence[list[int]], listed: Sequence[Term], at: Sequence[int]
    ) -> list[list[int]]:
        """Return the places of each term without those of sources that say what the sentence says of another fact."""
        facts = facts_of([(listed, at)])
        names, forms = _spoken_of(wanted), {form for term in wanted for form in term.forms}
        found = [list(held) for held in places]
        quoting = self._places.quoting(listed)
        for fact in facts:
            own = [at for at, term in enumerate(wanted) if kind_of(term) and not fact.forms.isdisjoint(term.forms)]
            words = beside(fact, facts, listed, at)
            for source in {self._places.owners[place] for index in own for place in found[index]} - quoting:
                held = {place for index in own for place in found[index] if self._places.owners[place] == source}
                if self._places.misplaced(fact, words, held, names, forms):
                    for index in own:
                        found[index] = [place for place in found[index] if self._places.owners[place] != source]
        return found

    def _with_replaced_names(self, wanted: Sequence[Term], places: Sequence[Sequence[int]]) -> list[Term]:
        """Return the terms; a word that may be a name is one where the best place has another name instead of it."""
        doubtful = [
            index for index, term in enumerate(wanted) if (term.after and not term.hard) or self._is_unknown(term)
        ]
        counts = Counter(place for found in places for place in found) if doubtful else None
        if not counts:
            return list(wanted)
        best = max(counts, key=lambda place: (counts[place], -place))
        forms = {form for term in wanted for form in term.forms}
        replaced = [
            index for index in doubtful if best not in places[index] and self._replaces(wanted[index], best, forms)
        ]
        return [as_name(term) if index in replaced else term for index, term in enumerate(wanted)]

    def _is_unknown(self, term: Term) -> bool:
        return not self._places.has(term) and (self._places.may_be_name(term) or term.lead == "identifier")

    def _replaces(self, term: Term, place: int, forms: Set[str]) -> bool:
        """Tell whether a place has another name where a sentence has this word, one that the sentence has not."""
        if term.after:
            others = [other for other in self._places.terms[place] if other.after == term.after]
            return any(forms.isdisjoint(other.forms) for other in others)
        rivals = self._places.rivals(place, as_name(term).kind)
        return bool(rivals) and forms.isdisjoint(rivals)

    def _covered(self, wanted: Sequence[Term], places: Sequence[Sequence[int]]) -> list[set[int]]:
        """Return which terms the best place of each source has: a sentence, and one of its neighbours."""
        at: defaultdict[int, set[int]] = defaultdict(set)
        weights: defaultdict[int, int] = defaultdict(int)
        for index, term in enumerate(wanted):
            weight = _weight(term)
            for place in places[index]:
                at[place].add(index)
                weights[place] += weight
        best = [-1] * self._count
        for place in sorted(weights, key=lambda place: (weights[place], -place)):
            best[self._places.owners[place]] = place
        return [self._with_neighbour(place, source, at, wanted) for source, place in enumerate(best)]

    def _with_neighbour(self, place: int, source: int, at: dict[int, set[int]], wanted: Sequence[Term]) -> set[int]:
        if place < 0:
            return set()
        owners = self._places.owners
        nearby = (place - 1, place, place + 1)
        unions = [at[place] | at[near] for near in nearby if near in at and owners[near] == source]
        return max(unions, key=lambda found: sum(_weight(wanted[index]) for index in found))

    def _by_source(
        self, wanted: Sequence[Term], places: Sequence[Sequence[int]], holders: Sequence[set[int]]
    ) -> tuple[float, ...]:
        """Return each source's own share of the terms, the best place and the whole source blended."""
        total = sum(map(_weight, wanted)) or 1
        whole = [0] * self._count
        for term, sources in zip(wanted, holders, strict=True):
            for source in sources:
                whole[source] += _weight(term)
        best = [sum(_weight(wanted[index]) for index in found) for found in self._covered(wanted, places)]
        return tuple((0.75 * place + 0.25 * all_) / total for place, all_ in zip(best, whole, strict=True))

    def _choose(
        self, by_source: Sequence[float], wanted: Sequence[Term], holders: Sequence[set[int]]
    ) -> tuple[float, tuple[int, ...]]:
        """Return the support, and the sources that together have every hard term of the sentence."""
        ranked = sorted(range(self._count), key=lambda source: (-by_source[source], source))
        if not ranked or not by_source[ranked[0]]:
            return 0.0, ()
        chosen = ranked[:1]
        absent = {index for index, found in enumerate(holders) if ranked[0] not in found}
        for source in ranked[1:]:
            new = {index for index in absent if source in holders[index]}
            # One number from elsewhere may be about something else: another source must add what it is about, too.
            helps = len(new) > 1 and any(wanted[index].hard for index in new)
            if helps and by_source[source] >= _SECOND_SOURCE and len(chosen) < _MOST_SOURCES:
                chosen.append(source)
                absent -= new
        support = self._together(by_source, chosen, wanted, absent)
        # A number alone, with its unit, found among other words, says nothing.
        units = {term.unit for term in wanted if term.number}
        numbers = [index for index, term in enumerate(wanted) if term.number or not units.isdisjoint(term.forms)]
        told = sum(char.isdigit() for index in numbers for char in wanted[index].forms[0])
        bare = (
            told < _TELLING
            and len(wanted) > len(numbers)
            and absent.issuperset(set(range(len(wanted))).difference(numbers))
        )
        if bare or any(wanted[index].hard for index in absent):
            return support * _FOREIGN_CAP, ()
        return support, tuple(source + 1 for source in chosen) if support >= THRESHOLD else ()

    def _together(
        self, by_source: Sequence[float], chosen: Sequence[int], wanted: Sequence[Term], absent: set[int]
    ) -> float:
        """Return the support by the chosen sources: of several, the share of terms that they have between them."""
        if len(chosen) == 1:
            return by_source[chosen[0]]
        total = sum(map(_weight, wanted))
        return 1.0 - sum(_weight(wanted[index]) for index in absent) / total


def placed(text: str, title: str | None, headings: Sequence[str]) -> str:
    """Return a part of a document under its title and the headings that it stands under, as Markdown."""
    above = [_readable(title or ""), *(" ".join(line.split()) for line in headings)]
    lines = [f"{'#' * level} {line}\n\n" for level, line in enumerate(filter(None, above), 1)]
    return "".join([*lines, text])


def _readable(title: str) -> str:
    """Return a title in one line; a file's name with its words apart, alone and in pairs: "hx-200_manual.pdf"."""
    if " " in title.strip():
        return " ".join(title.split())
    words = re.split(r"[-_./]+", re.sub(r"\.\w{2,5}\Z", "", title.strip()))
    return " ".join([*words, *("-".join(pair) for pair in pairwise(words))])


def _spoken_of(wanted: Sequence[Term]) -> Names:
    """Return the names that a sentence speaks of: its codes, and of other names those in front."""
    front = subjects_of(wanted)
    proper = {kind: front.get(kind, frozenset()) for kind in (NAME, PERSON)}
    return {**names_of(wanted), **proper}


def _is_one_name(one: Term, other: Term) -> bool:
    """Tell whether two terms are words of one name."""
    return one is other or (one.group >= 0 and one.group == other.group)


def _is_fact(term: Term) -> bool:
    """Tell whether a term is what a sentence says of something: a number, a date, a person, a town."""
    return term.hard and term.kind in ("", NAME, PERSON) and not (not term.kind and term.forms[0].isalpha())


def _is_figure(term: Term) -> bool:
    return term.hard and not term.forms[0].isalpha()


def _weight(term: Term) -> int:
    return 2 if term.hard else 1


def _is_talk(sentence: str) -> bool:
    """Tell whether a sentence is a question or a greeting."""
    plain = _straight(sentence)
    return plain.rstrip(" \n\"')*_").endswith(("?", "\uff1f", "\u061f")) or _GREETING.match(plain) is not None


def _admits(sentence: str) -> bool:
    """Tell whether a sentence says that it does not know."""
    return _REFUSAL.search(_straight(sentence)) is not None


def _repeats_itself(sentence: str) -> bool:
    """Tell whether a sentence goes round in circles, as small models do: it says nothing, whatever its words are."""
    words = _WORD.findall(sentence.lower())
    return len(words) >= _LONG and len(set(words)) < _VARIETY * len(words)


def _straight(text: str) -> str:
    return text.replace("\u2019", "'").replace("\u201d", '"')
