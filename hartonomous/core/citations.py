"""A model's raw text turned, as it streams, into an answer whose sentences cite the sources that support them.

The answer is the same however the text is cut on its way in: nothing is decided before what it depends on has come.
Held back are a `[` until it is known for a marker or not (at most 40 characters, and an address behind it), a backtick
until it is known for code or not (the rest of its line, at most 200 characters, or 1,000 behind three of them), and the
marks and blanks after a word until the next word shows whether a sentence has ended there. Everything else goes out as
it comes in.

- Markers are written `[1][2]`, at a sentence's end before its full stop: "fact [1]." A model's "fact. [1]" and
  "[1] Fact." become that as well. Inside a sentence a marker stays where it is. `[1, 2]`, `[1-3]`, `[^1]`,
  `[Source 1]`, `【1】` and `[1](address)` are read as markers; links, list boxes, code and years are not.
- A marker that points at no source is removed, with the blank before it. So is one whose sentence (inside a
  sentence: the part before it) has a number, name or code that stands in none of the sources it cites, or that
  belongs to a sentence which another source supports and the cited one does not.
- A sentence without a marker gets those of the sources that support it (`hartonomous.core.grounding`). Questions,
  greetings, "I don't know", headings and code blocks get none, nor does what nothing supports.
- With `require_grounding` only supported sentences are given out, each whole, and those that say that the sources do
  not answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from hartonomous.core import codespans
from hartonomous.core.codespans import Code, read_code
from hartonomous.core.grounding import THRESHOLD, Grounding, Verdict
from hartonomous.core.markers import OPENERS, UNDECIDED, Undecided, show_markers
from hartonomous.core.sentences import CLOSERS, ends_sentence, stops
from hartonomous.core.tails import SIMPLE, Tail, numbers_of, read_tail, shown_tail

_MISPLACED = 0.25  # a cited source below this share is the wrong one, if another supports the sentence

_LONGEST = 1_000  # characters of a sentence: one without an end would be judged again and again as it grows

_MARKS = re.escape(CLOSERS)
# Words, and what stands inside words or between two of them without ever ending a sentence. Characters are repeated
# possessively, groups are not: before Python 3.11.5 such a group keeps what its last, failed round has read.
_LETTER = rf"[^\s{re.escape(OPENERS + codespans.MARKS)}{_MARKS}|]"
_WORD = re.compile(rf"{_LETTER}++")
_WORDS = rf"(?:[.': ][^\W_]{_LETTER}*+|{_LETTER}++|_(?=\w))+"
_PLAIN = re.compile(_WORDS)
# What most sentences are, from their first word to the next sentence: read in one step.
_SENTENCE = re.compile(rf"({_WORDS}){SIMPLE}")
_OPEN_BRACKET = re.compile(r"\[[^\]\n]{0,40}\Z")


class SentenceGrounding(msgspec.Struct, frozen=True, array_like=True, gc=False):  # an array where answers are kept
    """One sentence of the answer: its place in code points, the sources it cites, and its support, 0..1."""

    start: int
    end: int
    markers: list[int]
    support: float


class _Sentence(msgspec.Struct, gc=False):
    """What is known of the sentence that is being read."""

    plain: str = ""  # without markers
    out: list[str] = []  # as it goes into the answer
    given: list[int] = []  # the model's markers for the whole sentence
    inside: list[int] = []  # the model's markers that stay inside
    fence: str = ""
    judged: tuple[str, Verdict] | None = None

    def verdict(self, judge: Grounding) -> Verdict:
        """Return what the sources say to the sentence so far; asked again for the same words it is known."""
        plain = self.plain.rstrip()
        if self.judged is None or self.judged[0] != plain:
            self.judged = (plain, judge.judge(plain))
        return self.judged[1]


class AnswerBuilder:
    """Takes a model's text piece by piece and gives the answer piece by piece.

    Marker n stands for `sources[n - 1]`. The pieces that `feed` and `finish` return, put together, are `answer`.
    `grounding` and `cited` are complete after `finish`.
    """

    def __init__(self, sources: Sequence[str], *, require_grounding: bool = False) -> None:
        self._markers = range(1, len(sources) + 1)
        self._judge = Grounding(sources)
        self._strict = require_grounding
        self._buffer = ""
        self._sentence = _Sentence()
        self._given_out: list[str] = []
        self._length = 0
        self._separator = ""  # strict: the blanks before the next sentence that is given out
        self._cited: dict[int, None] = {}
        self._claimed = self._backed = False
        self.grounding: list[SentenceGrounding] = []

    @property
    def answer(self) -> str:
        """The answer so far."""
        self._given_out = ["".join(self._given_out)]
        return self._given_out[0]

    @property
    def cited(self) -> list[int]:
        """The markers that the answer uses, in the order of their first use."""
        return list(self._cited)

    @property
    def unsupported(self) -> bool:
        """Whether the answer claims something and no source supports any of it; known after `finish`."""
        return self._claimed and not self._backed

    def quote(self, marker: int, text: str) -> str:
        """Add a sentence of source `marker`, quoted, behind the finished answer; return what was added."""
        added = f"{chr(10) * 2 if self._length else ''}\u201c{text}\u201d {show_markers([marker])}"
        self._given_out.append(added)
        self._record(added, ([marker], 1.0), [marker])
        return added

    def finish(self) -> str:
        """Decide what is still held back and return it: the model has ended."""
        return self.feed("", final=True)

    def feed(self, text: str, *, final: bool = False) -> str:
        """Take the next piece of the model's text, or the `final` one; return what of the answer is decided by it."""
        before = len(self._given_out)
        self._buffer += text
        position, size = 0, len(self._buffer)
        while position < size:
            following = self._step(position, final)
            if following == position:
                break
            position = following
        self._buffer = self._buffer[position:]
        if final and self._sentence.out:
            self._end_sentence("", "", [])
        return "".join(self._given_out[before:])

    def _step(self, at: int, final: bool) -> int:
        """Read one thing at `at`; return where the next begins, or `at` when more text is needed to know."""
        sentence = self._sentence
        if not sentence.out:
            whole = _SENTENCE.match(self._buffer, at, at + _LONGEST)
            if whole and (end := self._read_sentence(whole, final)):
                return end
        if sentence.fence:
            return self._read_fenced(at, final)
        room = _LONGEST - len(sentence.plain)
        plain = _PLAIN.match(self._buffer, at, at + room) if room > 0 else _WORD.match(self._buffer, at)
        if plain:
            self._put(plain[0])
            return plain.end()
        if self._buffer[at] in codespans.MARKS:
            return self._read_code(at, final)
        return self._read_tail(at, final)

    def _read_sentence(self, whole: re.Match[str], final: bool) -> int:
        """Read a sentence of plain words with all that ends it; return where the next begins, 0 if it goes on."""
        plain, _, markers, mark, gap = whole.groups()
        end = whole.end()
        following = self._buffer[end : end + 1]
        if not (stops(plain, mark, following) if gap else final and not following):
            return 0
        self._put(plain)
        self._end_sentence(mark, gap, numbers_of(markers))
        return end

    def _put(self, text: str) -> None:
        """Add text to the sentence, as it stands."""
        self._sentence.plain += text
        self._write(text)

    def _write(self, text: str) -> None:
        """Give out a part of the sentence; strict answers wait for its end."""
        self._sentence.out.append(text)
        if not self._strict:
            self._given_out.append(text)

    def _read_code(self, at: int, final: bool) -> int:
        """Read a span of code, the marks that open a block of it, or such as mean nothing."""
        code = read_code(self._buffer, at, final=final)
        if code is UNDECIDED:
            return at
        kind, end = code
        plain = self._sentence.plain
        if plain.strip() and (kind is Code.FENCE or len(plain) > _LONGEST):
            self._end_sentence("", "", [])
        if kind is Code.FENCE:
            self._sentence.fence = self._buffer[at:end]
        self._put(self._buffer[at:end])
        return end

    def _read_fenced(self, at: int, final: bool) -> int:
        """Read one line of a code block, the first one from behind its marks on; its closing line ends it."""
        end = self._buffer.find("\n", at) + 1
        if not end and not final:
            return at
        end = end or len(self._buffer)
        line, fence = self._buffer[at:end], self._sentence.fence
        self._put(line)
        mark = line.strip()
        if mark.startswith(fence) and not mark.strip(fence[0]):
            self._end_sentence("", "", [])
        return end

    def _read_tail(self, at: int, final: bool) -> int:
        """Read what stands between two words and end the sentence there, or go on with it."""
        tail = read_tail(self._buffer, at, self._sentence.plain, final=final)
        fence = None if tail is None else self._opens_fence(tail.end, final)
        if tail is None or fence is UNDECIDED:
            return at
        if tail.end == at:  # a bracket that is no marker, or a bar
            self._put(self._buffer[at])
            return at + 1
        if self._sentence.plain.strip() and (fence or self._ends(tail)):
            self._end_sentence(tail.closing, tail.gap, tail.markers)
        else:
            self._go_on(tail)
        return tail.end

    def _ends(self, tail: Tail) -> bool:
        """Tell whether the sentence ends there; not at a line's end within brackets: they would get its markers."""
        plain = self._sentence.plain
        if len(plain) > _LONGEST:
            return True
        if "\n" in tail.gap and _OPEN_BRACKET.search(plain[-50:]):
            return False
        return ends_sentence(plain, tail.closing, tail.gap, tail.following)

    def _opens_fence(self, at: int, final: bool) -> bool | Literal[Undecided.UNDECIDED]:
        """Tell whether a code block begins at `at`."""
        if at == len(self._buffer) or self._buffer[at] not in codespans.MARKS:
            return False
        code = read_code(self._buffer, at, final=final)
        return code if code is UNDECIDED else code[0] is Code.FENCE

    def _go_on(self, tail: Tail) -> None:
        """Write what stands between two words of one sentence, with the markers that hold."""
        text = ""
        sentence = self._sentence
        begun = _has_words(sentence.plain)
        after_marker = False
        for part in tail.parts:
            if isinstance(part, list):
                held = self._hold(part) if begun else self._hold_leading(part)
                text = text + show_markers(held) if held else text.rstrip()
                after_marker = not begun
                continue
            text += part.lstrip() if after_marker else part
            sentence.plain += part
        self._write(text)

    def _hold_leading(self, markers: Iterable[int]) -> list[int]:
        """Keep the markers before a sentence's first word for its end."""
        self._sentence.given += self._valid(markers)
        return []

    def _hold(self, markers: Iterable[int]) -> list[int]:
        """Return those of the markers inside a sentence that the part before them does not contradict."""
        valid = self._valid(markers)
        if not valid or not self._sentence.verdict(self._judge).backed_by(valid):
            return []
        self._sentence.inside += valid
        return valid

    def _valid(self, markers: Iterable[int]) -> list[int]:
        return list(filter(self._markers.__contains__, dict.fromkeys(markers)))

    def _end_sentence(self, closing: str, gap: str, markers: Iterable[int]) -> None:
        sentence, self._sentence = self._sentence, _Sentence()
        plain, inside = sentence.plain, sentence.inside
        given = self._valid([*sentence.given, *markers])
        verdict = self._judge.judge(plain + closing, [*given, *inside] if inside else given)
        titled = bool(sentence.fence) or plain.startswith("#")
        end, support = ([], 0.0) if titled else _decide(verdict, given, inside)
        shown = used = end
        if inside:
            shown = [*inside, *[marker for marker in end if marker not in inside]]
            used = [*inside, *end]
        if not verdict.claims or (support < THRESHOLD and not (shown and verdict.backed_by(shown))):
            shown = []
        if titled:
            support = verdict.support
        elif verdict.claims:
            self._claimed = True
            self._backed = self._backed or support >= THRESHOLD
        tail = shown_tail(plain, closing, end) + gap
        text = "".join(sentence.out) + tail
        if self._strict:
            self._give_supported(text, (shown, support), used, verdict)
        else:
            self._given_out.append(tail)
            self._record(text, (shown, support), used)

    def _give_supported(self, text: str, row: tuple[list[int], float], used: Iterable[int], verdict: Verdict) -> None:
        """Give out a whole sentence if it is supported, after the widest of the blanks that were left out."""
        body = text.rstrip()
        separator = text[len(body) :]
        if (verdict.claims and row[1] >= THRESHOLD) or verdict.admits:
            text = self._separator + body if self._length else body
            self._given_out.append(text)
            self._record(text, row, used)
            self._separator = separator
        else:
            self._separator = max(self._separator, separator, key=lambda blanks: blanks.count("\n"))

    def _record(self, text: str, row: tuple[list[int], float], used: Iterable[int]) -> None:
        """Add a sentence that was given out to the answer's account."""
        begin = self._length
        self._length = following = begin + len(text)
        self._cited.update(dict.fromkeys(used))
        if _has_words(text):
            start, end = following - len(text.lstrip()), begin + len(text.rstrip())
            self.grounding.append(SentenceGrounding(start, end, row[0], round(row[1], 4)))


def _has_words(text: str) -> bool:
    return any(map(str.isalnum, text))


def _decide(verdict: Verdict, given: list[int], inside: list[int]) -> tuple[list[int], float]:
    """Return the markers for a sentence's end, and the support that goes with all of its markers."""
    if not verdict.claims:
        return [], 0.0
    cited = [*inside, *given] if inside else given
    if verdict.support == 1.0 and set(verdict.sources).issubset(cited):
        return given, 1.0  # as of most, which are quoted
    share = max([verdict.by_source[marker - 1] for marker in cited]) if cited else 0.0
    misplaced = verdict.supported and share < _MISPLACED
    if cited and verdict.backed_by(cited) and not misplaced:
        return given, verdict.support if set(verdict.sources) <= set(cited) else share
    return [marker for marker in verdict.sources if marker not in inside], verdict.support
