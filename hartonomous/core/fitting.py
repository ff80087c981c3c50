"""Questions and texts cut so that each pair of them fits a model that reads both at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hartonomous.core.prompt import truncate_to
from hartonomous.core.tokens import MOST

# No text that means anything has more characters to a token: what is beyond need not be counted.
_MOST_CHARACTERS = 16


def fit_pairs(
    query: str, texts: Sequence[str], room: int, count: Callable[[str], int], most: int = MOST
) -> tuple[str, list[str]]:
    """Return the beginnings of the question and of each text so that no pair has more than `room` tokens by `count`.

    The question is cut to half of the room where it is longer, the texts to what it leaves. `count` says 1 for an ASCII
    character at most, and `most` for another one: what fits by that is not counted, which would take 14 µs for 1,000
    characters.
    """
    each = 1 if all(map(str.isascii, (query, *texts))) else most
    asked, longest = each * len(query), each * max(map(len, texts), default=0)
    if asked <= room // 2 and longest <= room - asked:
        return query, list(texts)
    query = beginning(query, room // 2, count)
    left = room - count(query)
    return query, [beginning(text, left, count) for text in texts]


def beginning(text: str, room: int, count: Callable[[str], int]) -> str:
    """Return as much of the beginning of a text as has at most `room` tokens by `count`, cut between words."""
    kept = text[: max(0, room) * _MOST_CHARACTERS]
    while kept and (size := count(kept)) > room:
        # A little less than its share, since tokens are not spread evenly; it always gets shorter.
        kept = truncate_to(kept, 0.97 * max(0, room) / size)
    return kept
