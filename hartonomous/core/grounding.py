"""How far the sources support a sentence: overlap of words, numbers and names with the sources' own sentences.

Support is the share of a sentence's terms that one source has (`hartonomous.core.support`). A hard term that stands in
no source caps the support under the threshold: the sentence claims what nobody wrote. So does one that stands there
beside other things:

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
from functools import partial
from itertools import pairwise

import msgspec

from hartonomous.core.places import Places
from hartonomous.core.roles import Fact, beside, facts_of, kind_of
from hartonomous.core.support import THRESHOLD, Overlap, Support
from hartonomous.core.topics import Names, as_name, names_of, subjects_of
from hartonomous.core.words import NAME, PERSON, Term

__all__ = ["THRESHOLD", "Grounding", "Verdict", "placed"]

_LONG = 24  # words, from which a sentence can be one that goes round in circles
_VARIETY = 0.3  # the least share of different words in it
_WORD = re.compile(r"\w+")
_MANY_WORDS = re.compile(rf"(?:\W*+\w++){{{_LONG}}}")
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
# Each refusal has one of these, in lower case; to search for the refusals themselves takes 10 µs.
_REFUSING = ("not", "no ", "n't", "cht", "uelle", "ument")


class Verdict(msgspec.Struct, frozen=True, gc=False):
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
        if not self.hard:
            return True
        cited = {marker - 1 for marker in markers}
        return all(holders & cited for holders in self.hard)

    @property
    def supported(self) -> bool:
        """Whether the sentence stands in the sources."""
        return self.claims and self.support >= THRESHOLD


class _Facts(msgspec.Struct, gc=False):
    """The facts of a sentence, its terms with their positions, the names that it speaks of, and all its forms."""

    facts: list[Fact]
    listed: Sequence[Term]
    at: Sequence[int]
    names: Names
    forms: set[str]


class Grounding:
    """The sources of one answer; `judge` costs some microseconds a word."""

    __slots__ = ("_count", "_places")

    def __init__(self, sources: Sequence[str]) -> None:
        self._count = len(sources)
        self._places = Places(sources)

    def judge(self, sentence: str, cited: Sequence[int] = ()) -> Verdict:
        """Weigh one sentence (without markers) against the sources.

        Where one of those that it cites (numbers from 1) has it word for word, or supports it and nothing in it is
        hard, the others are not asked, and have 0 in `by_source`: that takes a fifth of the time.
        """
        for marker in cited:
            if self._places.indexes[marker - 1].says(sentence):
                return self._quoted(sentence, marker)
        self._places.lay_out()
        found, at = self._places.read(sentence)
        listed = self._places.settled(found)
        wanted = list({term.forms: term for term in listed}.values())
        admits, doubtful = _admits(sentence), self._doubtful(wanted)
        support: Support | Overlap
        if doubtful or True in [term.hard or term.number for term in wanted]:
            support = self._by_places(wanted, doubtful, listed, at)
        else:
            support = self._by_words(wanted, () if admits else cited)
        by_source, hard = support.by_source, support.holders()
        # "It does not cover pens" is no "I don't know" when it stands so in a source.
        admits = admits and max(by_source, default=0.0) < _VERBATIM
        claims = bool(wanted) and not admits and not _is_talk(sentence)
        if _repeats_itself(sentence):
            return Verdict(0.0, (), (0.0,) * self._count, True, claims, False, hard)
        # The name that was asked for may be repeated; a number or a code would be a claim.
        admits = admits and support.has_figures()
        share, chosen = support.choose() if claims else (0.0, ())
        return Verdict(share, chosen, by_source, not all(hard), claims, admits, hard)

    def _by_words(self, wanted: Sequence[Term], cited: Iterable[int]) -> Overlap:
        """Return the support of words of which none is hard: by what is cited if that suffices, else by all sources."""
        shares = dict.fromkeys(range(self._count), 0.0)
        for marker in cited:
            shares[marker - 1] = self._places.share(marker - 1, wanted)
        if max(shares.values(), default=0.0) < THRESHOLD:
            shares = {source: known or self._places.share(source, wanted) for source, known in shares.items()}
        return Overlap(tuple(shares.values()))

    def _by_places(
        self, wanted: list[Term], doubtful: Sequence[int], listed: Sequence[Term], at: Sequence[int]
    ) -> Support:
        """Return the support of terms (`wanted`, of `listed` the different ones) that places can contradict."""
        places = self._places.holding(wanted)
        wanted = self._with_replaced_names(wanted, places, doubtful)
        if True in [term.hard for term in wanted]:  # else there is nothing that could contradict
            names, forms = _spoken_of(wanted), {form for term in wanted for form in term.forms}
            places = self._agreeing(wanted, places, names, forms)
            if facts := facts_of([(listed, at)]):
                places = self._in_their_roles(wanted, places, _Facts(facts, listed, at, names, forms))
        return Support(wanted, places, self._places.owners, self._count)

    def _quoted(self, sentence: str, marker: int) -> Verdict:
        """Return what is said to a sentence that a source says."""
        claims = not _is_talk(sentence)
        if _repeats_itself(sentence):
            return Verdict(0.0, (), (0.0,) * self._count, True, claims, False)
        by_source = [0.0] * self._count
        by_source[marker - 1] = 1.0
        return Verdict(1.0 if claims else 0.0, (marker,) if claims else (), tuple(by_source), False, claims, False)

    def _agreeing(
        self, wanted: Sequence[Term], places: Sequence[list[int]], names: Names, forms: Set[str]
    ) -> list[list[int]]:
        """Return for each term the places that have it and speak of what the sentence speaks of."""
        agreeing = list(places)
        for index, (term, found) in enumerate(zip(wanted, places, strict=True)):
            if term.hard and found:
                own = set(term.forms)
                if term.group >= 0:  # the words of one name
                    own.update(*[other.forms for other in wanted if other.group == term.group])
                others = forms - own
                agreeing[index] = [place for place in found if not self._places.contradicts(place, names, others, own)]
        return agreeing

    def _in_their_roles(self, wanted: Sequence[Term], places: list[list[int]], said: _Facts) -> list[list[int]]:
        """Return the places of each term without those of sources that say what the sentence says of another fact."""
        found = list(places)
        kinds = [(index, term) for index, term in enumerate(wanted) if term.hard and kind_of(term)]
        owners = self._places.owners
        quoting: dict[int, bool] = {}  # all of a source is read for that: once for all facts
        for fact in said.facts:
            own = [index for index, term in kinds if not fact.forms.isdisjoint(term.forms)]
            words = partial(beside, fact, said.facts, said.listed, said.at)
            held: defaultdict[int, set[int]] = defaultdict(set)
            for index in own:
                for place in found[index]:
                    held[owners[place]].add(place)
            for source, there in held.items():
                if source not in quoting:
                    quoting[source] = self._places.indexes[source].quotes(said.listed)
                if not quoting[source] and self._places.misplaced(fact, words, there, said.names, said.forms):
                    for index in own:
                        found[index] = [place for place in found[index] if owners[place] != source]
        return found

    def _doubtful(self, wanted: Sequence[Term]) -> list[int]:
        """Return which of the terms are words that may be names."""
        return [
            index
            for index, term in enumerate(wanted)
            if (term.after and not term.hard) or (term.lead and self._is_unknown(term))
        ]

    def _with_replaced_names(
        self, wanted: list[Term], places: Sequence[Sequence[int]], doubtful: Sequence[int]
    ) -> list[Term]:
        """Return the terms; a word that may be a name is one where the best place has another name instead of it."""
        if not doubtful:
            return wanted
        counts = Counter(place for found in places for place in found)
        if not counts:
            return wanted
        best = max(counts, key=lambda place: (counts[place], -place))
        forms = {form for term in wanted for form in term.forms}
        replaced = [
            index for index in doubtful if best not in places[index] and self._replaces(wanted[index], best, forms)
        ]
        return [as_name(term) if index in replaced else term for index, term in enumerate(wanted)]

    def _is_unknown(self, term: Term) -> bool:
        looks = term.lead == "identifier" or self._places.may_be_name(term)
        return looks and not self._places.has(term)

    def _replaces(self, term: Term, place: int, forms: Set[str]) -> bool:
        """Tell whether a place has another name where a sentence has this word, one that the sentence has not."""
        if term.after:
            others = [other for other in self._places.terms(place) if other.after == term.after]
            return any(forms.isdisjoint(other.forms) for other in others)
        rivals = self._places.rivals(place, as_name(term).kind)
        return bool(rivals) and forms.isdisjoint(rivals)


def placed(text: str, title: str | None, headings: Sequence[str]) -> str:
    """Return a part of a document under its title and the headings that it stands under, as Markdown."""
    above, level = "", 0
    for line in (_readable(title or ""), *[" ".join(line.split()) for line in headings]):
        if line:
            level += 1
            above += f"{'#' * level} {line}\n\n"
    return above + text


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


def _is_talk(sentence: str) -> bool:
    """Tell whether a sentence is a question or a greeting."""
    plain = sentence if sentence.isascii() else _straight(sentence)
    return plain.rstrip(" \n\"')*_").endswith(("?", "\uff1f", "\u061f")) or _GREETING.match(plain) is not None


def _admits(sentence: str) -> bool:
    """Tell whether a sentence says that it does not know."""
    plain = sentence if sentence.isascii() else _straight(sentence)
    lower = plain.lower()
    return any(map(lower.__contains__, _REFUSING)) and _REFUSAL.search(plain) is not None


def _repeats_itself(sentence: str) -> bool:
    """Tell whether a sentence goes round in circles, as small models do: it says nothing, whatever its words are."""
    lower = sentence.lower()
    if len(sentence) < 2 * _LONG - 1 or not _MANY_WORDS.match(lower):
        return False
    words = _WORD.findall(lower)
    return len(set(words)) < _VARIETY * len(words)


def _straight(text: str) -> str:
    return text.replace("\u2019", "'").replace("\u201d", '"')
