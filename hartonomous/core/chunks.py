"""What stands between two blanks of a text, read once and kept: mostly a word, whose terms are always the same.

A word in lower case has the same terms wherever it stands, and one with a capital that begins a sentence has, before
such a word, one of two. All else is read with what stands around it
(`hartonomous.core.naming`).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import structs

from hartonomous.core.lexicon import CONJUNCTIONS, COUNTING
from hartonomous.core.naming import APART, CAPITALS, JOINT, PAUSE, leads_as_name
from hartonomous.core.quantities import CURRENCIES, NUMBER, may_be_of_date
from hartonomous.core.words import DENSE_RUN, PLAIN, TOKEN, Readings, Term, classified

_FIGURES = frozenset("0123456789")
_MARKS = ".,;:!?)"  # behind a number
_AROUND = _MARKS + "(\"'*"
_SIGNS = frozenset("%€$£¥°dgp;")  # what a sign behind a number may begin with: "degrees", "per cent"; or a line's end
_MINUS = ("minus", "moins")


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """What is known of some characters without a blank, whatever stands around them.

    `parts` are the terms of its only word, and None where they depend on what is around; `words` is the number of its
    words. `opens` and `closes`: a mark before its first word or behind its last one parts it from others. `dated`: it
    may be of a date. `word` is its only word where that may be read without all that is around. `plain`: it has `parts`
    and no such mark.
    """

    parts: tuple[Term, ...] | None
    words: int
    opens: bool
    closes: bool
    dated: bool
    word: str
    plain: bool = False


def _read(chunk: str) -> Chunk:
    before, behind, words = "", "", [chunk]
    if not chunk.isalpha():
        pieces = TOKEN.split(chunk)
        before, words, behind = pieces[0], pieces[1::2], pieces[-1]
    opens, closes = _pauses(before), _pauses(behind)
    dated = may_be_of_date(chunk)
    if len(words) != 1:
        return Chunk(None if words else (), len(words), opens, closes, dated, "")
    word = words[0]
    counts = word in COUNTING and not behind
    if word.islower() and not counts and _stands_alone(word, before, behind):
        parts = (JOINT,) if word in CONJUNCTIONS else PLAIN[word]
        return Chunk(parts, 1, opens, closes, dated, word if not before else "", not opens and not closes)
    known = counts or _has_one_capital(chunk) or (NUMBER.fullmatch(word) and not behind.strip(_MARKS))
    return Chunk(None, 1, opens, closes, dated, word if known and not before else "")


def _pauses(gap: str) -> bool:
    return bool(gap) and PAUSE.search(gap) is not None


def _stands_alone(word: str, before: str, behind: str) -> bool:
    """Tell whether a word in lower case has the same terms wherever it stands: no number, hyphen, code or unit."""
    if word.isalpha():
        return before[-1:] != "`"
    return "-" not in word and before[-1:] not in ("`", "°") and behind[:1] != "`" and not any(map(str.isdigit, word))


def _has_one_capital(chunk: str) -> bool:
    return len(chunk) > 1 and chunk.isalpha() and chunk[0].isupper() and chunk[1:].islower()


CHUNKS = Readings(_read)


def _number(word: str, chunks: Sequence[str], read: Sequence[Chunk], at: int) -> tuple[Term, ...] | None:
    """Return the terms of a number that no sign can stand beside."""
    before = read[at - 1].word if at else "-"
    if not (before.islower() or before[1:].islower()) or before != chunks[at - 1] or before.endswith(_MINUS):
        return None
    signed = len(chunks[at]) == len(word) and at + 1 < len(chunks) and chunks[at + 1][0] in _SIGNS
    return None if signed else classified(word, names=True, inside=True, identifier=False)


def _leading(word: str) -> tuple[tuple[Term, ...], tuple[Term, ...]]:
    """Return the terms of a word with a capital in front of others, where it leads as no name, and where as one."""
    found = classified(word, names=True, inside=False, identifier=False)
    if not CAPITALS[word]:
        return found, found
    as_word, as_name = (
        tuple([term if term.number or term.hard else structs.replace(term, lead=lead) for term in found])
        for lead in ("word", "name")
    )
    return as_word, as_name


_LEADING = Readings(_leading)


def parts_of(text: str, chunks: Sequence[str], read: Sequence[Chunk], at: int) -> tuple[Term, ...] | None:
    """Return the terms of a chunk of a text that depend on the next chunk only; None where they depend on more."""
    word = read[at].word
    if not word:
        return None
    following = read[at + 1] if at + 1 < len(read) else None
    if word[0] in _FIGURES:
        return _number(word, chunks, read, at)
    if word.islower():  # a preposition, which a number may follow
        if following is not None and chunks[at + 1][0] in _FIGURES:
            return (APART,)
        return PLAIN[word] if following is None or following.words else None
    if at or following is None or not following.word.islower() or not text.startswith(word):
        return None
    if following.word in CURRENCIES:
        return ()
    blank = text[len(word)] == " " and not text[len(word) + 1].isspace()
    return _LEADING[word][leads_as_name(word, following.word, touching=blank)]


def _forms(chunk: str) -> tuple[str, ...] | None:
    word = chunk.strip(_AROUND)
    # Most are one word, and no "iPhone": to read all of the chunk takes three times as long.
    if word.isascii() and word.isalpha() and (word[1:].islower() or word.islower() or word.isupper()):
        found = PLAIN[word.lower()]
    else:
        known = CHUNKS[chunk]
        if known.words != 1:
            return None if known.words else ()
        before, word, behind = TOKEN.split(chunk)
        if any(map(str.isdigit, word)) or DENSE_RUN.search(word):
            return None
        if known.parts is not None:
            found = known.parts
        elif word.isalpha() and before[-1:] not in ("`", "°") and behind[:1] != "`":
            found = PLAIN[word] if word.islower() else classified(word, names=True, inside=False, identifier=False)
        else:
            return None
    if word in CURRENCIES or True in [term.number or (term.hard and word.islower()) for term in found]:
        return None
    return found[0].forms if len(found) == 1 else tuple([form for term in found for form in term.forms])


FORMS = Readings(_forms)
"""The forms of a chunk's terms; None where they depend on what stands around it, or those of other terms on them.

None as well of a code in lower case (`get_item`): that a sentence has a name in it must not be overlooked.
"""
