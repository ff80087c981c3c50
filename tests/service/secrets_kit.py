"""Canaries: random words that stand where secrets can stand, and the search for them in whatever comes out."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable
from typing import Any

from hartonomous.core import apikey


class Canaries:
    """The canaries of one test, by the place where each stands."""

    def __init__(self) -> None:
        self._words: dict[str, str] = {}

    def word(self, place: str) -> str:
        """Return the canary of a place; a place has one."""
        return self._words.setdefault(place, f"cnry{secrets.token_hex(10)}")

    def key(self, place: str, key_id: str) -> str:
        """Return an API key, whose secret part is the canary."""
        key = apikey.make(key_id, secrets.token_bytes(apikey.SECRET_BYTES))
        # What is after the id: that one is no secret.
        self._words[place] = key.rpartition("_")[2]
        return key

    def found(self, text: str, but: Iterable[str] = ()) -> list[str]:
        """Return the places whose canaries are in a text, but for those that may be there."""
        folded, allowed = text.casefold(), set(but)
        return [
            place
            for place, word in self._words.items()
            if place not in allowed and any(form.casefold() in folded for form in _forms(word))
        ]


def _forms(word: str) -> tuple[str, ...]:
    """Return what gives a canary away: itself, its half, and itself in base64 and in hexadecimal digits."""
    return word, word[len(word) // 2 :], base64.b64encode(word.encode()).decode()[4:-4], word.encode().hex()


def texts_of(canaries: Canaries) -> dict[str, Any]:
    """Return a document and questions with a canary in each place of theirs."""
    word = canaries.word
    return {
        "document": {
            "id": "lime",
            "text": f"A lime weighs 67 grams. {word('document text')}",
            "title": word("document title"),
            "source": f"https://example.org/{word('document source')}",
            "metadata": {"team": word("document metadata")},
        },
        "query": f"What does a lime weigh? {word('query')}",
        "system": f"Be brief. {word('system')}",
        "messages": [
            {"role": "user", "content": word("earlier question")},
            {"role": "assistant", "content": word("earlier answer")},
        ],
        "filter": {"must": [{"key": "metadata.team", "match": {"value": word("filter")}}]},
        "file": f"{word('file name')}.txt",
        "file text": f"Limes again. {word('file text')}",
    }


DOCUMENTS = ("document text", "document title", "document source", "document metadata", "file name", "file text")
