from __future__ import annotations

from pathlib import Path

import pytest

from hartonomous.evaluation.dataset import DatasetError, load, whole_text

CORPUS = '{"_id": "a", "title": "Limes", "text": "They are green."}\n{"_id": "b", "title": "", "text": "Lemons."}\n'
QUERIES = '{"_id": "1", "text": "green?"}\n{"_id": "2", "text": "yellow?"}\n'
QRELS = "query-id\tcorpus-id\tscore\n1\ta\t2\n2\tb\t1\n"


def folder(root: Path, corpus: str = CORPUS, queries: str = QUERIES, qrels: str = QRELS) -> Path:
    (root / "qrels").mkdir(exist_ok=True)
    (root / "corpus.jsonl").write_bytes(corpus.encode("utf-8", "surrogateescape"))
    (root / "queries.jsonl").write_bytes(queries.encode())
    (root / "qrels" / "test.tsv").write_bytes(qrels.encode())
    return root


def test_a_folder_in_beirs_format_is_read(tmp_path: Path) -> None:
    data = load(folder(tmp_path))
    assert data.questions == {"1": "green?", "2": "yellow?"}
    assert data.qrels == {"1": {"a": 2}, "2": {"b": 1}}
    assert [(record.id, record.text) for record in data.records()] == [
        ("a", "Limes They are green."),
        ("b", "Lemons."),
    ]
    assert (data.documents, data.empty, data.unknown, data.idle, data.unasked) == (2, 0, 0, 0, 0)


def test_ends_of_lines_blank_lines_and_a_mark_of_utf8_do_not_count(tmp_path: Path) -> None:
    crlf = folder(
        tmp_path,
        "\ufeff" + CORPUS.replace("\n", "\r\n\r\n"),
        QUERIES.replace("\n", "\r\n").rstrip(),
        QRELS.replace("\n", "\r\n"),
    )
    assert load(crlf).qrels == {"1": {"a": 2}, "2": {"b": 1}}


def test_numbers_are_taken_for_ids_and_missing_titles_for_none(tmp_path: Path) -> None:
    corpus = '{"_id": 1, "text": "one"}\n{"_id": 2, "title": null, "text": "two"}\n'
    data = load(folder(tmp_path, corpus, '{"_id": 7, "text": "q"}', "7\t1\t1.0\n"))
    assert [(record.id, record.title, record.text) for record in data.records()] == [("1", "", "one"), ("2", "", "two")]
    assert data.qrels == {"7": {"1": 1}}


def test_a_header_may_be_missing_and_the_later_of_two_judgements_counts(tmp_path: Path) -> None:
    data = load(folder(tmp_path, qrels="1\ta\t2\n1\tb\t-1\n1\ta\t4\n"))
    assert data.qrels == {"1": {"a": 4, "b": -1}}


def test_what_cannot_be_measured_is_counted(tmp_path: Path) -> None:
    corpus = CORPUS + '{"_id": "c", "title": " ", "text": "\\n"}\n'
    qrels = "query-id\tcorpus-id\tscore\n1\ta\t1\n1\tgone\t1\n1\talso-gone\t0\n2\tb\t0\n3\ta\t1\n"
    data = load(folder(tmp_path, corpus, qrels=qrels))
    assert list(data.questions) == ["1"]
    assert (data.documents, data.empty, data.unknown, data.idle, data.unasked) == (2, 1, 1, 1, 1)
    assert [record.id for record in data.records()] == ["a", "b"]


@pytest.mark.parametrize(
    ("title", "text", "whole"),
    [
        ("Limes", "They are green.", "Limes They are green."),
        ("On limes .", "on limes", "On limes . on limes"),
        ("On\nlimes .", "On limes .\n  They are green.", "On limes .\n  They are green."),
        ("", " text ", "text"),
        ("Limes", "", "Limes"),
        ("", "", ""),
    ],
)
def test_a_title_is_searched_once(title: str, text: str, whole: str) -> None:
    assert whole_text(title, text) == whole


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"corpus": CORPUS + "{"}, "corpus.jsonl, line 3: not JSON"),
        ({"corpus": CORPUS + "[]"}, "corpus.jsonl, line 3: no JSON object"),
        ({"corpus": CORPUS + "\udcff"}, "corpus.jsonl, line 3: not UTF-8"),
        ({"corpus": '{"text": "x"}'}, "corpus.jsonl, line 1: no _id"),
        ({"corpus": '{"_id": " ", "text": "x"}'}, "corpus.jsonl, line 1: no _id"),
        ({"corpus": '{"_id": "a\\u0000", "text": "x"}'}, "line 1: an _id is 1 to 256 characters"),
        ({"corpus": '{"_id": "a", "text": 3}'}, "corpus.jsonl, line 1: text is no text"),
        ({"corpus": CORPUS + CORPUS}, "corpus.jsonl, line 3: the id 'a' is there twice"),
        ({"corpus": ""}, "corpus.jsonl: the file is empty"),
        ({"corpus": '{"_id": "a", "text": ""}'}, "corpus.jsonl: no document has a text"),
        ({"queries": QUERIES + QUERIES}, "queries.jsonl, line 3: the id '1' is there twice"),
        ({"queries": '{"_id": "1", "text": " "}'}, "queries.jsonl, line 1: the question has no text"),
        ({"qrels": "1 a 2\n"}, "test.tsv, line 1: expected query-id, corpus-id, score, with a tab in between"),
        ({"qrels": QRELS + "1\ta\n"}, "test.tsv, line 4: expected query-id"),
        ({"qrels": QRELS + "1\ta\t1.5\n"}, "test.tsv, line 4: the score '1.5' is no whole number"),
        ({"qrels": QRELS + "1\ta\tgood\n"}, "test.tsv, line 4: the score 'good' is no whole number"),
        ({"qrels": "1\ta\t0\n"}, "test.tsv: no document is relevant to a question of queries.jsonl"),
        ({"qrels": "9\ta\t1\n"}, "test.tsv: no document is relevant to a question of queries.jsonl"),
    ],
)
def test_an_error_is_a_sentence_with_file_and_line(files: dict[str, str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        load(folder(tmp_path, **files))
    assert sentence in caught.value.message
    assert str(tmp_path) in caught.value.message


@pytest.mark.parametrize("missing", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_missing_file_is_told(missing: str, tmp_path: Path) -> None:
    (folder(tmp_path) / missing).unlink()
    with pytest.raises(DatasetError, match=r"cannot be read: No such file"):
        load(tmp_path)
