"""The audit trail's chain: each line has a number, the hash of the line before it, and its own.

A line is a JSON object. `seq` counts from 1, `prev` is the SHA-256 of the line before (all of its bytes but the line
end; 64 zeros for the first), and `hash`, its last member, is the SHA-256 of everything before `,"hash":`. So a line
that was changed shows it by itself, also the last one; and one that was taken out, put in or moved does not fit between
its neighbours.

What was torn (a crash or a full disk in the middle of a line) is closed by a line end, in the same write as the next
line: so a broken line that has its end and nothing after it was not torn. The next line's `prev` is the
hash of the torn part, and its event is `recovered`. Should that one be torn as well, the next one's `prev` is the hash
of both, with the line end between them, and so on (`Torn`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

RECOVERED = "recovered"
NO_HEAD = "missing"
"""What such a line says as `head` where the chain had none when it was gone on with."""

_NAME = re.compile(r"(?P<chain>audit-[0-9]+)(?:\.(?P<number>[0-9]+))?\.jsonl")
_HASH = re.compile(rb',"hash":"([0-9a-f]{64})"\}\Z')


@dataclass(slots=True, frozen=True)
class Link:
    """Where a chain has come to: the number of its last line, and what the next line carries as `prev`."""

    seq: int = 0
    digest: str = "0" * 64


@dataclass(slots=True, frozen=True)
class Record:
    """What of a line the chain is made of; `digest` is the hash of the whole line."""

    seq: int
    prev: str
    time: str
    event: str
    digest: str
    is_headless: bool = False

    @property
    def link(self) -> Link:
        """The chain as far as this line."""
        return Link(self.seq, self.digest)


@dataclass(slots=True, frozen=True)
class Finding:
    """What is to be said of a line: that the trail is not what was written, or (`is_note`) how it came about."""

    line: int
    sentence: str
    is_note: bool = False


def digest(line: bytes) -> str:
    """Return the hash that the next line carries of this one."""
    return sha256(line).hexdigest()


def sealed(fields: bytes) -> bytes:
    """Return a JSON object (no line end) with its own hash as the last member."""
    body = fields.removesuffix(b"}")
    return b'%b,"hash":"%b"}' % (body, sha256(body).hexdigest().encode())


def record_of(line: bytes) -> Record | None:
    """Return what a line (without its end) says; None when it is not what was once written."""
    found = _HASH.search(line)
    if found is None or sha256(line[: found.start()]).hexdigest().encode() != found[1]:
        return None
    try:
        fields = json.loads(line)  # which takes half a surrogate pair, as a caller may have sent it
        seq, prev, time, event = (fields[name] for name in ("seq", "prev", "time", "event"))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not (isinstance(seq, int) and all(isinstance(text, str) for text in (prev, time, event))):
        return None
    is_headless = event == RECOVERED and fields.get("head") == NO_HEAD
    return Record(seq, prev, time, event, digest(line), is_headless)


def place_of(name: str) -> tuple[str, int | None] | None:
    """Return the chain of a file and its number in it (None: the one that is written), None of any other file."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return found["chain"], None if found["number"] is None else int(found["number"])


class Torn:
    """Lines in a row that were torn, without their ends: how many, and the hash that the line after them carries."""

    def __init__(self) -> None:
        self.count = 0
        self._hash = sha256()

    def add(self, line: bytes) -> None:
        """Add the next one."""
        self._hash.update(b"\n" + line if self.count else line)
        self.count += 1

    @property
    def digest(self) -> str:
        """The hash of all of them."""
        return self._hash.hexdigest()


class Checker:
    """Goes through the lines of a chain in order and says what does not fit.

    `head` is the line that the writer knew to be on the disk: a chain that ends before it was cut off. With
    `is_partial` the chain need not begin at its first line.
    """

    def __init__(self, head: Link | None, *, is_partial: bool = False) -> None:
        self.link = Link()
        self.count = 0
        self.first: str | None = None
        self.last: str | None = None
        self._head = head
        self._is_partial = is_partial
        self._broken: list[int] = []  # the places of the lines since the last whole one
        self._torn = Torn()

    def line(self, number: int, line: bytes) -> Iterator[Finding]:
        """Check the next line, without its end; `number` is its place in its file."""
        record = record_of(line)
        if record is None:
            self._broken.append(number)
            self._torn.add(line)
            return
        if self._is_partial and not self.count and not self._broken:
            self.link = Link(record.seq - 1, record.prev)
        yield from self._follows(number, record)
        if self._head is not None and record.seq == self._head.seq and record.digest != self._head.digest:
            yield Finding(number, "changed: the head remembers another line here")
        if record.is_headless:
            yield Finding(number, "missing: the head, when the chain was gone on with; lines before may be as well")
        self.count += 1
        self.first, self.last = self.first or record.time, record.time

    def end(self, number: int, *, is_open: bool) -> Iterator[Finding]:
        """Say what is wrong with the chain's end; `is_open` says that its last line has no line end."""
        if self._broken and is_open:
            yield from self._were_torn("torn: a crash, or it is being written", self.link)
        elif self._broken:
            yield from self._changed()
        if self._head is not None and self._head.seq > self.link.seq:
            yield Finding(number, f"missing: {_lines(self.link.seq + 1, self._head.seq)} at the end")

    def _follows(self, number: int, record: Record) -> Iterator[Finding]:
        expected = self.link.seq + 1
        if self._broken:
            if record.event == RECOVERED and (record.seq, record.prev) == (expected, self._torn.digest):
                yield from self._were_torn("torn, as the next line tells: a crash, or a full disk", record.link)
                return
            yield from self._changed()
            expected = self.link.seq + 1
        elif record.seq == expected and record.prev != self.link.digest:
            yield Finding(number, "changed: the line before it was another when this one was written")
        if record.seq < expected:
            what = "doubled" if record.link == self.link else "out of order"
            yield Finding(number, f"{what}: line {record.seq} of the chain stands after line {self.link.seq}")
            return
        if record.seq > expected:
            yield Finding(number, f"missing: {_lines(expected, record.seq - 1)} of the chain before it")
        self.link = record.link

    def _were_torn(self, sentence: str, link: Link) -> Iterator[Finding]:
        for number in self._broken:
            yield Finding(number, sentence, is_note=True)
        self._go_on(link)

    def _changed(self) -> Iterator[Finding]:
        for number in self._broken:
            yield Finding(number, "changed: its hash is another")
        self._go_on(Link(self.link.seq + len(self._broken), self._torn.digest))

    def _go_on(self, link: Link) -> None:
        self._broken, self._torn, self.link = [], Torn(), link


def _lines(first: int, last: int) -> str:
    return f"line {first}" if first == last else f"lines {first} to {last}"
