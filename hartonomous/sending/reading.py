"""An answer on a terminal: its text as it comes, then the sources that it uses and what it was made without."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from hartonomous import codec
from hartonomous.sending.faults import objects
from hartonomous.sending.naming import STEERING, printable, readable

_EXCERPT = 100
_STEERING_JSON = re.compile(f"[{STEERING}]")

Json = Mapping[str, Any]


class UnwritableError(Exception):
    """Standard output cannot be written; the cause says why. It is no OSError, which would be one of the connection."""


class Reader:
    """Takes the events of an answer and prints them; what the reader ought to know goes to `say`."""

    def __init__(self, out: TextIO, say: Callable[[str], None]) -> None:
        self._out = out
        self._say = say
        self._begun = False

    def __call__(self, event: str, value: Json) -> None:
        """Take an event; unknown ones are a later server's."""
        if event == "delta":
            self._print(readable(str(value.get("text", ""))))
            self._begun = True
        elif event == "done":
            self.end()
            self._sources(value)
            for sentence in remarks(value):
                self._say(sentence)

    def end(self) -> None:
        """End the line of a text that has ended, or broken off."""
        if self._begun:
            self._print("\n")
        self._begun = False

    def _sources(self, answer: Json) -> None:
        for citation in objects(answer.get("citations")):
            self._print("\n" + cited(citation))

    def _print(self, text: str) -> None:
        try:
            self._out.write(text)
            self._out.flush()
        except OSError as error:
            raise UnwritableError from error


def cited(citation: Json) -> str:
    """Return what is shown of a source: its marker and document, the place in it, the score, a line of its text."""
    places = [f"page {citation['page']}"] if citation.get("page") else []
    if headings := _words(citation.get("headings")):
        places.append(" > ".join(headings))
    title = citation.get("title")
    document = f"{citation.get('document_id')} ({title})" if title else str(citation.get("document_id"))
    score = citation.get("score")
    end = f"  {score:.3f}" if isinstance(score, int | float) else ""
    head = f"[{citation.get('marker')}] {', '.join((document, *places))}{end}"
    return f"{printable(head)}\n    {printable(_excerpt(str(citation.get('text', ''))))}\n"


def _excerpt(text: str) -> str:
    """Return the beginning of a text's first line that is no heading."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    line = next((line for line in lines if line and not line.startswith("#")), "") or " ".join(text.split())
    return line if len(line) <= _EXCERPT else f"{line[:_EXCERPT].rstrip()}…"


def remarks(answer: Json) -> list[str]:
    """Return what to know of an answer beside its text, a sentence each."""
    found = []
    if degraded := _words(answer.get("degraded")):
        found.append(f"Made without: {', '.join(degraded)}.")
    if answer.get("omitted"):
        found.append(f"{answer['omitted']} more found did not fit the model's context.")
    if answer.get("finish_reason") == "length":
        found.append("The answer was cut off where it reached its most tokens.")
    return found


def _words(value: Any) -> list[str]:
    return list(map(str, value)) if isinstance(value, list) else []


def json_line(answer: Json) -> str:
    """Return an answer as a line of JSON in which nothing can steer a terminal."""
    return _STEERING_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", codec.dumps(answer).decode())
