"""How many tokens an answer took, read off its bytes as they pass by, whole or as a stream of events.

OpenAI's `usage` says it, in llama.cpp's embeddings before the vectors and in a stream in the last chunk; where a stream
was not asked for one, llama.cpp's `timings` of the last chunk. Within JSON neither can be mistaken for text that was
generated: there its quotes are escaped. Until either comes each event is taken for a token.
"""

from __future__ import annotations

import re

# No usage or timings are longer than this.
_WINDOW = 1_024
_EVENT = b"\ndata:"
_BEGINS = re.compile(rb'"(?:usage|timings)"\s*:\s*\{')
_COUNTS = re.compile(rb'"(total_tokens|prompt_tokens|completion_tokens|prompt_n|predicted_n|cache_n)"\s*:\s*(\d{1,15})')


class UsageReader:
    """Reads one answer. `estimated_prompt` is taken for the tokens of the prompt until they are known."""

    def __init__(self, estimated_prompt: int = 0) -> None:
        self._prompt = estimated_prompt
        self._last = b""
        self._edge = b"\n"
        self._events = 0
        self._said: dict[str, int] = {}
        self._is_left = False

    def left(self) -> None:
        """The answer was given up while it was made: the prompt is used, whatever has come."""
        self._is_left = True

    def feed(self, data: bytes) -> None:
        """Read the next bytes."""
        edged = self._edge + data
        self._events += edged.count(_EVENT)
        self._edge = edged[1 - len(_EVENT) :]
        text = self._last + data
        for begin in _BEGINS.finditer(text):
            kind = "usage" if begin[0].startswith(b'"usage"') else "timings"
            if (tokens := _tokens(text[begin.end() : begin.end() + _WINDOW])) is not None:
                self._said[kind] = tokens
        self._last = text[-_WINDOW:]

    @property
    def tokens(self) -> int:
        """The tokens so far, as far as they are known."""
        for kind in ("usage", "timings"):
            if kind in self._said:
                return self._said[kind]
        return self._prompt + self._events if self._events or self._is_left else 0


def _tokens(text: bytes) -> int | None:
    """Return the sum that stands in this text, or what it is made of."""
    found: dict[bytes, int] = {}
    for count in _COUNTS.finditer(text):
        found.setdefault(count[1], int(count[2]))
    if not found:
        return None
    return found.get(b"total_tokens", sum(found.values()))
