"""How many tokens an answer took, read off its bytes as they pass by, whole or as a stream of events.

OpenAI's `usage` says it, in llama.cpp's embeddings before the vectors and in a stream in the last chunk; where a stream
was not asked for one, llama.cpp's `timings` of the last chunk. Within JSON neither can be mistaken for text that was
generated: there its quotes are escaped. Until either comes each event is taken for a token.
"""

from __future__ import annotations

import re

# No usage or timings are longer than this.
_WINDOW = 1_024
# So many bytes of a body are looked through at once.
_AT_ONCE = 16_384
_DATA, _EVENT = b"data:", b"\ndata:"
_USAGE = b'"usage"'
_TIMINGS = b'"timings"'
_BEGINS = re.compile(rb'"(?:usage|timings)"\s*:\s*\{')
_TOTAL = re.compile(rb'"total_tokens"\s*:\s*(\d{1,15})')
_COUNTS = re.compile(rb'"(prompt_tokens|completion_tokens|prompt_n|predicted_n|cache_n)"\s*:\s*(\d{1,15})')


class UsageReader:
    """Reads one answer: `whole`, in pieces (`feed`), or its events. `estimated_prompt` is taken until more is known."""

    __slots__ = ("_events", "_is_known", "_is_left", "_is_stream", "_last", "_prompt", "_said", "_size", "_unread")

    def __init__(self, estimated_prompt: int = 0) -> None:
        self._prompt = estimated_prompt
        self._unread: list[bytes] = []
        self._size = 0
        self._last = b"\n"
        self._events = 0
        self._said: dict[str, int] = {}
        self._is_left = False
        self._is_stream: bool | None = None
        self._is_known = False

    def left(self) -> None:
        """The answer was given up while it was made: the prompt is used, whatever has come."""
        self._is_left = True

    def whole(self, answer: bytes) -> None:
        """Take an answer that is no stream, all of it at once."""
        tokens = _said_by(answer, _USAGE)
        if tokens is None:
            tokens = _said_by(answer, _TIMINGS)
        if tokens is not None:
            self._said["usage"] = tokens

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._is_known:
            return
        self._unread.append(data)
        self._size += len(data)
        if self._size >= _AT_ONCE:
            self._read()

    def feed_events(self, data: bytes) -> None:
        """Take the next events of a stream, which are whole.

        They are looked through as they come: to gather some KiB would be to look through those of all streams that
        began together in one moment, for which every other token waits (8 ms of 200 streams). `in` would take twice as
        long as `find`.
        """
        self._events += data.count(_EVENT) + data.startswith(_DATA)
        if data.find(_USAGE) >= 0 or data.find(_TIMINGS) >= 0:
            self._find(data, 0)

    def _read(self) -> None:
        text = b"".join((self._last, *self._unread))
        if self._is_stream is None and (begin := text[:_WINDOW].lstrip()):
            self._is_stream = not begin.startswith((b"{", b"["))
        if self._is_stream:
            self._events += text.count(_EVENT, max(0, len(self._last) - len(_EVENT) + 1))
        # To search for words is much faster than for the pattern.
        found = [at for at in (text.find(_USAGE), text.find(_TIMINGS)) if at >= 0]
        if found:
            self._find(text, min(found))
        self._last = text[-_WINDOW:]
        self._unread, self._size = [], 0

    def _find(self, text: bytes, start: int) -> None:
        for begin in _BEGINS.finditer(text, start):
            kind = "usage" if begin[0].startswith(_USAGE) else "timings"
            if (tokens := _tokens(text, begin.end())) is not None:
                self._said[kind] = tokens
                # A body says it once, and only a stream says it again.
                self._is_known |= not self._is_stream and kind == "usage" and begin.end() + _WINDOW <= len(text)

    @property
    def tokens(self) -> int:
        """The tokens so far, as far as they are known."""
        if self._unread:
            self._read()
        for kind in ("usage", "timings"):
            if kind in self._said:
                return self._said[kind]
        return self._prompt + self._events if self._events or self._is_left else 0


def _said_by(answer: bytes, name: bytes) -> int | None:
    """Return what a whole answer says under this name: near its end, as chat completions do, or anywhere."""
    for start in (max(0, len(answer) - _WINDOW), 0):
        at = answer.find(name, start)
        while at >= 0:
            begin = _BEGINS.match(answer, at)
            if begin is not None and (tokens := _tokens(answer, begin.end())) is not None:
                return tokens
            at = answer.find(name, at + 1)
    return None


def _tokens(text: bytes, start: int) -> int | None:
    """Return the sum that stands in this text at `start`, or what it is made of."""
    end = start + _WINDOW
    if (total := _TOTAL.search(text, start, end)) is not None:
        return int(total[1])
    found: dict[bytes, int] = {}
    for count in _COUNTS.finditer(text, start, end):
        found.setdefault(count[1], int(count[2]))
    return sum(found.values()) if found else None
