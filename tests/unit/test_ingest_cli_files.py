"""Which files are found, how they are read, and what counts as gone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.sending.content import LINE_BYTES, FileItem, UnsendableError, VanishedError
from hartonomous.sending.globs import Globs
from hartonomous.sending.naming import DocumentName, document_name
from hartonomous.sending.prune import find_gone
from hartonomous.sending.walk import File, Filters, Root, RootsError, Stamp, Walk, make_roots, walk


def make(folder: Path, *paths: str, text: str = "Some text.") -> Path:
    for path in paths:
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return folder


def names(folder: Path, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[str]:
    found = walk(make_roots([str(folder)]), Filters(Globs(include), Globs(exclude)))
    assert (found.failures, found.gaps) == ([], [])
    return [file.name for file in found.files]


def item(path: Path) -> FileItem:
    (file,) = walk(make_roots([str(path)]), Filters()).files
    return FileItem(file, {})


def document(path: Path) -> dict[str, object]:
    line = item(path).line()
    assert line is not None
    assert b"\n" not in line
    parsed = orjson.loads(line)
    assert isinstance(parsed, dict)
    return parsed


def test_known_kinds_are_found_whatever_their_capitals(tmp_path: Path) -> None:
    make(tmp_path / "d", "a.txt", "b.MD", "c.Pdf", "d.py", "e", "f.docx", "g.htm", "h.markdown", "i.text", "j.html")
    assert names(tmp_path / "d") == [
        f"d/{name}" for name in ["a.txt", "b.MD", "c.Pdf", "f.docx", "g.htm", "h.markdown", "i.text", "j.html"]
    ]


def test_hidden_files_version_control_and_lock_files_are_left_out(tmp_path: Path) -> None:
    make(tmp_path / "d", "a.md", ".b.md", ".git/c.md", "sub/.venv/d.md", "CVS/e.md", "~$f.docx")
    assert names(tmp_path / "d") == ["d/a.md"]


def test_a_hidden_path_that_is_given_is_sent(tmp_path: Path) -> None:
    make(tmp_path / ".notes", "a.md")
    assert names(tmp_path / ".notes") == [".notes/a.md"]


def test_include_narrows_and_exclude_prunes(tmp_path: Path) -> None:
    folder = make(tmp_path / "d", "a.md", "a.txt", "a.py", "drafts/b.md", "sub/drafts/c.md", "sub/d.md")
    assert names(folder, include=["*.md", "*.py"], exclude=["drafts/"]) == ["d/a.md", "d/sub/d.md"]
    assert names(folder, include=["sub/**"]) == ["d/sub/d.md", "d/sub/drafts/c.md"]
    assert names(folder, exclude=["*.md"]) == ["d/a.txt"]


def test_ids_are_the_same_from_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "x" / "docs", "sub/a.md")
    found = []
    for directory, path in (
        ("/", str(tmp_path / "x/docs/")),
        (str(tmp_path / "x"), "docs"),
        (str(tmp_path / "x/docs"), "."),
    ):
        monkeypatch.chdir(directory)
        found.append([file.document.id for file in walk(make_roots([path]), Filters()).files])
    assert found == [["docs/sub/a.md"]] * 3


def test_equal_names_in_two_folders_do_not_collide(tmp_path: Path) -> None:
    make(tmp_path, "a/read.md", "b/read.md")
    found = walk(make_roots([str(tmp_path / "a"), str(tmp_path / "b")]), Filters())
    assert [file.document.id for file in found.files] == ["a/read.md", "b/read.md"]


def test_two_paths_whose_ids_would_be_the_same_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "x/docs/a.md", "y/docs/a.md")
    with pytest.raises(RootsError, match="would have the same ids"):
        make_roots([str(tmp_path / "x/docs"), str(tmp_path / "y/docs")])
    with pytest.raises(RootsError, match="has no name"):
        make_roots(["/"])


def test_a_path_within_another_is_sent_once(tmp_path: Path) -> None:
    make(tmp_path / "d", "sub/a.md")
    paths = [str(tmp_path / "d/sub/a.md"), str(tmp_path / "d/sub"), str(tmp_path / "d"), str(tmp_path / "d")]
    assert [file.name for file in walk(make_roots(paths), Filters()).files] == ["d/sub/a.md"]


def test_a_prefix_comes_first(tmp_path: Path) -> None:
    make(tmp_path / "docs", "a.md")
    (root,) = make_roots([str(tmp_path / "docs")], "team/x")
    (file,) = walk([root], Filters()).files
    assert file.document.id == "team/x/docs/a.md"
    assert root.place("team/x/docs/a.md") == tmp_path / "docs/a.md"


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    folder = make(tmp_path / "d", "z/a.md", "b/c.md")
    make(tmp_path / "outside", "o.md")
    (folder / "up").symlink_to(folder)
    (folder / "b" / "beside").symlink_to(folder / "z")
    (folder / "a-link").symlink_to(folder / "z")
    (folder / "out").symlink_to(tmp_path / "outside")
    (folder / "b" / "self.md").symlink_to("self.md")
    (folder / "link.md").symlink_to(folder / "z" / "a.md")
    assert names(folder) == ["d/link.md", "d/b/c.md", "d/z/a.md", "d/out/o.md"]


def test_special_files_are_no_documents(tmp_path: Path) -> None:
    folder = make(tmp_path / "d", "a.md")
    os.mkfifo(folder / "pipe.md")
    assert names(folder) == ["d/a.md"]


def test_what_cannot_be_looked_at_is_a_gap(tmp_path: Path) -> None:
    folder = make(tmp_path / "d", "a.md")
    (folder / "gone.md").symlink_to(tmp_path / "nowhere")
    (folder / "archive").symlink_to(tmp_path / "nowhere")
    found = walk(make_roots([str(folder), str(tmp_path / "absent")]), Filters())
    assert [file.name for file in found.files] == ["d/a.md"]
    assert [failure.name for failure in found.failures] == [str(folder / "gone.md"), str(tmp_path / "absent")]
    assert [gap.partition(":")[0] for gap in found.gaps] == [
        str(place) for place in (folder / "archive", folder / "gone.md", tmp_path / "absent")
    ]
    assert str(found.failures[1]).endswith("absent: cannot be read: no such file or directory")


def test_a_given_file_of_another_kind_is_a_failure(tmp_path: Path) -> None:
    make(tmp_path, "a.py")
    (failure,) = walk(make_roots([str(tmp_path / "a.py")]), Filters()).failures
    assert "is not a file that can be sent (.txt .text .md" in failure.sentence


def test_a_line_has_id_source_format_and_text(tmp_path: Path) -> None:
    make(tmp_path / "d", "a.md", text="# T\n\nÄ\n")
    assert document(tmp_path / "d") == {"id": "d/a.md", "source": "d/a.md", "format": "markdown", "text": "# T\n\nÄ\n"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_marked_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_text("Ärger", encoding=encoding)
    assert document(tmp_path / "a.txt")["text"] == "Ärger"


def test_what_is_no_text_is_refused_with_a_reason(tmp_path: Path) -> None:
    for data, reason in ((b"\x89PNG\x00\xff", "is not UTF-8 text"), (b"a\x00b", "is binary"), (b"\xc4rger", "UTF-8")):
        (tmp_path / "a.txt").write_bytes(data)
        with pytest.raises(UnsendableError, match=reason):
            item(tmp_path / "a.txt").line()


def test_html_in_another_encoding_is_uploaded(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes(b"<meta charset=latin-1><p>\xc4rger")
    assert item(tmp_path / "a.html").line() is None


def test_what_is_too_long_for_a_line_is_uploaded(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * (LINE_BYTES + 1))
    assert not item(tmp_path / "a.txt").goes_as_line
    assert item(tmp_path / "a.txt").line() is None
    (tmp_path / "b.txt").write_text('"' * (LINE_BYTES // 2))
    assert item(tmp_path / "b.txt").goes_as_line
    assert item(tmp_path / "b.txt").line() is None


def test_a_file_that_vanishes_or_cannot_be_read_is_told_apart(tmp_path: Path) -> None:
    make(tmp_path, "a.txt")
    vanished = item(tmp_path / "a.txt")
    (tmp_path / "a.txt").unlink()
    with pytest.raises(VanishedError):
        vanished.line()
    (tmp_path / "b.txt").symlink_to("/proc/self/mem")
    with pytest.raises(UnsendableError, match="cannot be read: input/output error"):
        item(tmp_path / "b.txt").line()


def gone(folder: Path, stored: Sequence[str], *, filtered: bool = False) -> list[str]:
    found = walk(make_roots([str(folder)]), Filters())
    return find_gone(found, [document_name(path) for path in stored], filtered=filtered).ids


def test_a_document_whose_file_is_no_more_is_gone(tmp_path: Path) -> None:
    make(tmp_path / "d", "a.md")
    stored = ["d/a.md", "d/b.md", "d/sub/c.md", "other/x.md", "d.md", "dx/y.md"]
    assert gone(tmp_path / "d", stored) == ["d/b.md", "d/sub/c.md"]


def test_a_file_that_is_there_but_not_sent_is_not_gone(tmp_path: Path) -> None:
    folder = make(tmp_path / "d", "a.md", "drafts/b.md")
    found = walk(make_roots([str(folder)]), Filters(exclude=Globs(["drafts"])))
    stored = [document_name(path) for path in ("d/a.md", "d/drafts/b.md", "d/drafts/c.md")]
    assert find_gone(found, stored, filtered=True).ids == ["d/drafts/c.md"]


def test_documents_of_others_are_never_gone(tmp_path: Path) -> None:
    folder = make(tmp_path / "d", "a.md")
    stored = [DocumentName("d/b.md", ""), DocumentName("d/c.md", "https://x/"), DocumentName("x", "d/x.md")]
    assert find_gone(walk(make_roots([str(folder)]), Filters()), stored, filtered=False).ids == []


def test_a_cleaned_name_is_gone_only_where_the_walk_saw_all(tmp_path: Path) -> None:
    folder = make(tmp_path / "d", "a.md", "x\ny.md")
    stored = ["d/x\ny.md", "d/x\tz.md"]
    assert gone(folder, stored) == [document_name("d/x\tz.md").id]
    assert gone(folder, stored, filtered=True) == []


def test_nothing_is_gone_while_something_could_not_be_looked_at(tmp_path: Path) -> None:
    folder = make(tmp_path / "d", "a.md")
    (folder / "disk").symlink_to(tmp_path / "unmounted")
    result = find_gone(walk(make_roots([str(folder)]), Filters()), [document_name("d/b.md")], filtered=False)
    assert result.ids == []
    assert "not everything could be looked at" in result.doubts[0]


def test_nothing_is_gone_from_a_root_that_is_absent_or_without_any_file(tmp_path: Path) -> None:
    stored = [document_name("d/b.md")]
    absent = find_gone(walk(make_roots([str(tmp_path / "d")]), Filters()), stored, filtered=False)
    assert (absent.ids, len(absent.doubts)) == ([], 1)
    (tmp_path / "d" / "sub").mkdir(parents=True)
    bare = find_gone(walk(make_roots([str(tmp_path / "d")]), Filters()), stored, filtered=False)
    assert bare.ids == []
    assert "no file at all" in bare.doubts[0]
    make(tmp_path / "d", "other.py")
    assert gone(tmp_path / "d", ["d/b.md"]) == ["d/b.md"]


def test_a_given_file_deletes_nothing(tmp_path: Path) -> None:
    make(tmp_path, "a.md")
    assert gone(tmp_path / "a.md", ["a.md", "b.md", "a.md/c.md"]) == []


STEPS = st.sampled_from(["a", "b", "c.md", "..", ".", "", "x\ny"])
PATHS = st.sets(st.lists(STEPS, min_size=1, max_size=4).map("/".join))


@given(PATHS, PATHS)
def test_only_what_a_walk_could_have_found_and_did_not_is_gone(stored: set[str], there: set[str]) -> None:
    root = Root(Path("/nonexistent/r"), "r")
    found = Walk(files=[File("", f"r/{path}", "text", Stamp(0, 0, 0, 0)) for path in there], folders=[root])
    ids = find_gone(found, [document_name(f"r/{path}") for path in stored], filtered=False).ids
    possible = {path for path in stored if not {"", ".", ".."} & set(path.split("/"))}
    assert set(ids) == {document_name(f"r/{path}").id for path in possible - there}
