"""What the sentences of a text speak of: the names that they begin with, else those of a heading or of one before."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from msgspec import structs

from hartonomous.core.lexicon import PLACING
from hartonomous.core.words import CODE, IDENTIFIER, NAME, PERSON, SYMBOL, Term

Names = dict[str, frozenset[str]]
"""Forms of names by their kind."""

_IN_FRONT = 3  # terms of a sentence, among which its subject is looked for
_REFERS_BACK = re.compile(
    r"\W*+(?:it|its|they|their|he|she|his|her|this|these|those|such|both|er|sie|es|ihr|ihre|sein|seine|dies\w*|"
    r"elle|elles|il|ils|son|sa|ses|leur|leurs|ce|cette|ces|el|ella|su|sus)\b",
    re.IGNORECASE,
)
_PROPER = frozenset((NAME, PERSON))


class Topic:
    """What the sentences of a source speak of, as they are read in order."""

    def __init__(self) -> None:
        self._headings: list[tuple[int, Names]] = []
        self._topic: Names = {}
        self._main = ""

    def names(self, sentence: str, listed: Sequence[Term], knows: Callable[[Iterable[str]], bool]) -> Names:
        """Return the names that the next sentence speaks of, by kind; `knows` tells which forms are of names."""
        own = names_of(listed)
        if sentence.startswith("#"):
            return self._head(sentence, own, knows)
        front = {} if _REFERS_BACK.match(sentence) else subjects_of(listed)
        for kind in front:
            self._turn(kind, front[kind])
            break
        codes = {kind: own[kind] for kind in (CODE, SYMBOL) if kind in own}
        return {**self._topic, **front, **codes}

    def _head(self, heading: str, own: Names, knows: Callable[[Iterable[str]], bool]) -> Names:
        """Begin a section and return its topic: the names in its heading and in those above it.

        Words with capitals are names only where the text uses them so: "Technical Data" is none.
        """
        level = len(heading) - len(heading.lstrip("#"))
        kept = {kind: names for kind, names in own.items() if kind not in _PROPER or knows(names)}
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


def settled(listed: Sequence[Term], knows: Callable[[Iterable[str]], bool]) -> list[Term]:
    """Return terms; what may be a name is one where it is known for one."""
    return [as_name(term) if term.lead and knows(term.forms) else term for term in listed]


def subjects_of(listed: Sequence[Term]) -> Names:
    """Return the names that a sentence begins with and speaks of: not "in Ulm"."""
    return names_of([term for term in listed[:_IN_FRONT] if term.after.lower() not in PLACING])


def as_name(term: Term) -> Term:
    """Return a term that names something."""
    return structs.replace(term, hard=True, kind=IDENTIFIER if term.lead == "identifier" else NAME)


def names_of(listed: Sequence[Term]) -> Names:
    """Return the forms of the names among some terms, by kind, in the order of the kinds' first names."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for term in listed:
        if term.hard and term.kind:
            found[term.kind].update(term.forms)
    return {kind: frozenset(forms) for kind, forms in found.items()}
