"""Where sentences end: one rule for whole texts and for a stream, with exact offsets.

A sentence ends at a full stop, question or exclamation mark (and marks that close what they end: quotes, brackets,
asterisks) that is followed by a blank and no lower-case letter; at a full-width mark at once; at a blank line; and at
a line end unless the next line goes on in lower case. It does not end after an abbreviation, an initial or the number
of a list item or of a German date ("am 3. Mai"), nor inside a number, a URL or an identifier, since no blank follows
there.
"""

from __future__ import annotations

import re

WIDE_ENDS = "。！？｡"  # noqa: RUF001 (they are the point)
ENDS = ".!?…؟।" + WIDE_ENDS
CLOSERS = ENDS + "\"'”’»)*_」』）】:;"  # noqa: RUF001

_WIDE = frozenset(WIDE_ENDS)

# Each run of marks or of blanks is looked at once, from its beginning: a text of nothing but dots stays cheap.
_MARKS = re.escape(CLOSERS)
_END = re.compile(f"[{re.escape(ENDS)}]")
# It begins with one set of characters, for which alone the engine searches quickly.
_CANDIDATE = re.compile(rf"[{_MARKS}\n](?:(?<!\n)[{_MARKS}]*+)?\s*+")
_WORD_BACKWARDS = re.compile(r"[^\s(\[\"'“„«*_]*")
_ITEM = re.compile(r"\s*(?:[-*+>]\s+)?(?:\(?[0-9]{1,3}|\(?[A-Za-z])\Z")
# "am 3. Mai", "der 2. Weltkrieg"
_ORDINAL = re.compile(
    r"\b(?:am|vom|dem|den|der|die|das|des|zum|zur|beim|im|bis|ab|seit|und|jede[nmrs]?)\s+[0-9]{1,2}\Z", re.IGNORECASE
)
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_SHORT = """
approx ca cf co corp dept dr eg est etc ex gen hon ie inc jr lt ltd max messrs min mr mrs ms mt prof rev sr st vs viz
jan feb mar apr jun jul aug sep sept oct nov dec bzw bspw evtl ggf usw vgl sog inkl zzgl str mme mlle mio mrd
"""
_ABBREVIATIONS = frozenset(_SHORT.split())
_SHORT_BEFORE_NUMBERS = "abs art ch eq fig figs no nos nr p pp par ref sec tab vol v ver s"
_BEFORE_NUMBERS = frozenset(_SHORT_BEFORE_NUMBERS.split())
_LONGEST_SHORT = max(map(len, _ABBREVIATIONS | _BEFORE_NUMBERS))


def ends_sentence(before: str, closing: str, gap: str, following: str) -> bool:
    """Tell whether a sentence ends between `before` + `closing` and `following`.

    `before` is the sentence so far, `closing` the marks after its last word, `gap` the blanks after them, `following`
    the character that comes next (empty at the end of the text).
    """
    if not following or not _WIDE.isdisjoint(closing):
        return True
    if not gap:
        return False
    if "\n" in gap:
        return _ends_line(before, closing, gap, following)
    first = _END.search(closing)
    return first is not None and stops(before + closing[: first.start()], first[0], following)


def stops(before: str, mark: str, following: str) -> bool:
    """Tell whether a sentence ends with one of the `ENDS` behind `before`, a blank between it and `following`."""
    return not following.islower() and (mark != "." or not _is_abbreviated(before, following))


def _ends_line(before: str, closing: str, gap: str, following: str) -> bool:
    if gap.count("\n") > 1 or before.lstrip().startswith("#"):
        return True
    return not following.islower() or _END.search(closing) is not None


def _is_abbreviated(before: str, following: str) -> bool:
    """Tell whether a full stop after `before` belongs to its last word: "Dr. No", "No. 5", "1. Open", "am 3. Mai"."""
    last = before[before.rfind(" ") + 1 :]
    if len(last) > 1 and last.isalpha():  # most are; neither an item, nor an ordinal, nor initials
        return _is_short(last, following)
    if _ITEM.match(before) or (before[-1:].isdigit() and _ORDINAL.search(before[-32:])):
        return True
    backwards = _WORD_BACKWARDS.match(before[:-33:-1])
    word = backwards[0][::-1] if backwards else ""
    if _INITIALS.fullmatch(word):
        # "I" ends sentences as well as any word; a letter in front of a capital is mostly an initial.
        return word != "I"
    return _is_short(word.replace(".", ""), following)


def _is_short(word: str, following: str) -> bool:
    if len(word) > _LONGEST_SHORT:
        return False
    name = word.lower()
    return name in _ABBREVIATIONS or (name in _BEFORE_NUMBERS and following.isdigit())


def sentences(text: str) -> list[tuple[int, int]]:
    """Return the start and end, in code points, of every sentence of `text`, blanks around it left out."""
    found: list[tuple[int, int]] = []
    start = 0
    for candidate in _CANDIDATE.finditer(text):
        at, end = candidate.span()
        run = candidate[0]
        if run == ". " and (word := text[max(text.rfind(" ", start, at) + 1, start) : at]).isalpha() and len(word) > 1:
            following = text[end : end + 1]  # most are such, and what `ends_sentence` asks for is known of them
            if not following or not (following.islower() or _is_short(word, following)):
                found.append((start, at + 1))
                start = end
            continue
        mark = run.rstrip()
        if len(mark) == len(run) and end < len(text) and _WIDE.isdisjoint(run):
            continue  # no blank follows
        # Of what is before, its first and its last word decide.
        before = text[start:at] if at - start <= 80 else text[start : start + 8] + text[at - 40 : at]
        if ends_sentence(before, mark, run[len(mark) :], text[end : end + 1]):
            found.append((start, at + len(mark)) if mark else _trim(text, start, at))
            start = end
    if start < len(text):
        found.append(_trim(text, start, len(text)))
    if not found:
        return []
    # Blanks stand behind a sentence's end, and before the first one.
    start, end = _trim(text, *found[0])
    return [(start, end), *found[1:]] if start < end else found[1:]


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    part = text[start:end]
    bare = part.strip()
    if len(bare) == end - start:
        return start, end
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())
