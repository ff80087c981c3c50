"""A test collection in BEIR's format: `corpus.jsonl`, `queries.jsonl`, `qrels/test.tsv`.

All of it is checked before anything is embedded; every error is one sentence with the file and the line. What a
collection may well have and a measurement can do without is counted instead: documents without text, judgements of
documents or questions that are not there, questions that no document is relevant to.

Thakur et al., "BEIR: A Heterogenous Benchmark for Zero-shot Evaluation of Information Retrieval Models", 2021.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hartonomous import codec
from hartonomous.errors import HartonomousError

Qrels = dict[str, dict[str, int]]
"""Grades by question and document. What is not there, or has a grade of 0 or less, is not relevant."""

_HEADER = ("query-id", "corpus-id", "score")
_MOST_ID = 256


class DatasetError(HartonomousError):
    """The test collection cannot be read; the message says where and why."""

    status = 422
    code = "bad_dataset"


@dataclass(slots=True, frozen=True)
class Record:
    """A document of the corpus: `text` is all of it that is searched."""

    id: str
    title: str
    text: str


@dataclass(slots=True)
class Dataset:
    """A checked test collection. `questions` are those that a document is relevant to, in the order of their file.

    `documents` counts those with text, `empty` those without, `unknown` the relevant ones that are not in the corpus:
    nobody can find them, and they count as missed. `idle` counts questions that no document is relevant to, `unasked`
    those that are judged and have no text.
    """

    folder: Path
    questions: dict[str, str]
    qrels: Qrels
    documents: int
    empty: int = 0
    unknown: int = 0
    idle: int = 0
    unasked: int = 0

    def records(self) -> Iterator[Record]:
        """Read the documents with text, one after the other."""
        return (record for record in _records(self.folder / "corpus.jsonl") if record.text)


def load(folder: Path) -> Dataset:
    """Check a test collection and return it; raise DatasetError."""
    ids, empty = _check_corpus(folder / "corpus.jsonl")
    texts = _read_questions(folder / "queries.jsonl")
    path = folder / "qrels" / "test.tsv"
    qrels = _read_qrels(path)
    relevant = {name: grades for name, grades in qrels.items() if max(grades.values()) > 0}
    questions = {name: text for name, text in texts.items() if name in relevant}
    if not questions:
        raise DatasetError(f"{path}: no document is relevant to a question of queries.jsonl")
    if len(ids) == empty:
        raise DatasetError(f"{folder / 'corpus.jsonl'}: no document has a text")
    asked = {name: relevant[name] for name in questions}
    found = {document for grades in asked.values() for document, grade in grades.items() if grade > 0}
    return Dataset(
        folder,
        questions,
        asked,
        documents=len(ids) - empty,
        empty=empty,
        unknown=len(found - ids),
        idle=len(texts) - len(questions),
        unasked=len(relevant) - len(asked),
    )


def whole_text(title: str, text: str) -> str:
    """Return what is searched of a document: title and text, the title once where the text begins with it.

    They are joined by a blank, as BEIR does it: a title in a paragraph of its own may become a chunk of its own.
    """
    title, text = title.strip(), text.strip()
    if not title or " ".join(text.split()).startswith(" ".join(title.split())):
        return text
    return f"{title} {text}".strip()


def _check_corpus(path: Path) -> tuple[set[str], int]:
    """Return the ids of all documents, and how many have no text."""
    ids: set[str] = set()
    empty = 0
    for number, record in enumerate(_records(path), 1):
        if record.id in ids:
            _refuse(path, number, f"the id {record.id!r} is there twice")
        ids.add(record.id)
        empty += not record.text
    return ids, empty


def _records(path: Path) -> Iterator[Record]:
    for number, value in _objects(path):
        title, text = _text(path, number, value, "title"), _text(path, number, value, "text")
        yield Record(_id(path, number, value), title.strip(), whole_text(title, text))


def _read_questions(path: Path) -> dict[str, str]:
    questions: dict[str, str] = {}
    for number, value in _objects(path):
        name, text = _id(path, number, value), _text(path, number, value, "text").strip()
        if name in questions:
            _refuse(path, number, f"the id {name!r} is there twice")
        if not text:
            _refuse(path, number, "the question has no text")
        questions[name] = text
    return questions


def _read_qrels(path: Path) -> Qrels:
    """Return the judgements; of two on the same question and document the later one counts."""
    qrels: Qrels = {}
    for number, line in _lines(path):
        columns = [column.strip() for column in line.split("\t")]
        if number == 1 and tuple(columns) == _HEADER:
            continue
        if len(columns) != 3 or not all(columns):
            _refuse(path, number, f"expected {', '.join(_HEADER)}, with a tab in between")
        question, document, grade = columns
        qrels.setdefault(question, {})[document] = _grade(path, number, grade)
    return qrels


def _grade(path: Path, number: int, text: str) -> int:
    """Return a grade; some conversions write whole numbers as `1.0`."""
    if not re.fullmatch(r"[+-]?[0-9]{1,9}(\.0+)?", text, re.ASCII):
        _refuse(path, number, f"the score {text!r} is no whole number")
    return int(text.partition(".")[0])


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(path):
        try:
            value = codec.loads(line)
        except codec.NotJsonError:
            _refuse(path, number, "not JSON")
        if not isinstance(value, dict):
            _refuse(path, number, "no JSON object")
        yield number, value


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Read the lines that are not blank, with their numbers from 1."""
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
                if text.strip():
                    yield number, text
    except UnicodeDecodeError:
        _refuse(path, number, "not UTF-8")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    if not number:
        raise DatasetError(f"{path}: the file is empty")


def _id(path: Path, number: int, value: dict[str, Any]) -> str:
    """Return the `_id`; some conversions write numbers."""
    name = value.get("_id")
    if type(name) is int:
        return str(name)
    if not isinstance(name, str) or not name.strip():
        _refuse(path, number, "no _id")
    name = name.strip()
    if len(name) > _MOST_ID or not name.isprintable():
        _refuse(path, number, f"an _id is 1 to {_MOST_ID} characters, without control characters")
    return name


def _text(path: Path, number: int, value: dict[str, Any], key: str) -> str:
    text = value.get(key)
    if text is None:
        return ""
    if not isinstance(text, str):
        _refuse(path, number, f"{key} is no text")
    return text


def _refuse(path: Path, number: int, why: str) -> NoReturn:
    raise DatasetError(f"{path}, line {number}: {why}")
