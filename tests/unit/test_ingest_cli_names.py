"""What files are called as documents, and which of them patterns fit."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.sending.globs import Globs
from hartonomous.sending.naming import ID_CHARS, document_name, is_ours, printable

BYTES = st.binary(min_size=1, max_size=120).filter(lambda data: not {0, 0x2F} & set(data) and data not in {b".", b".."})
NAMES = BYTES.map(os.fsdecode)
PATHS = st.lists(NAMES, min_size=1, max_size=12).map("/".join)


def test_a_path_that_fits_is_id_and_source() -> None:
    for path in ("docs/a.md", "a.txt", "ä/🍋 b.pdf", "x" * ID_CHARS):
        assert document_name(path) == (path, path)


@given(PATHS)
def test_every_path_has_an_id_that_the_server_takes(path: str) -> None:
    name = document_name(path)
    assert 1 <= len(name.id) <= 256
    assert not any(ord(char) < 0x20 or 0x7F <= ord(char) <= 0x9F for char in name.id + name.source)
    name.id.encode()
    name.source.encode()
    assert is_ours(name)


@given(st.lists(PATHS, min_size=2, max_size=8, unique=True))
def test_two_paths_have_two_ids(paths: list[str]) -> None:
    assert len({document_name(path).id for path in paths}) == len(paths)


def test_names_that_are_cleaned_alike_keep_their_own_ids() -> None:
    paths = ["d/a\nb.md", "d/a\tb.md", "d/a_b.md", "d/a\\b.md", os.fsdecode(b"d/a\xffb.md")]
    names = [document_name(path) for path in paths]
    assert len({name.id for name in names}) == len(paths)
    assert {name.source for name in names} == {"d/a_b.md"}


def test_a_long_path_keeps_its_head_readable() -> None:
    path = "handbook/" + "x" * 300 + ".md"
    name = document_name(path)
    assert len(name.id) == 256
    assert name.id.startswith("handbook/xxx")
    assert name.source == path


def test_what_others_named_is_not_ours() -> None:
    from hartonomous.sending.naming import DocumentName

    for other in (("docs/a.md", ""), ("docs/a.md", "https://x/a"), ("a~b", "a"), ("~" + "0" * 32, "a")):
        assert not is_ours(DocumentName(*other))


def test_what_is_shown_steers_no_terminal() -> None:
    assert printable("a\x1b[31mb\nc\u202ed\udcff") == "a\\x1b[31mb\\nc\\u202ed\\udcff"
    assert printable("ä 🍋") == "ä 🍋"


FITS = [
    ("*.md", "a.md", True),
    ("*.md", "sub/deep/a.md", True),
    ("*.md", "a.mdx", False),
    ("*.MD", "a.md", False),
    ("sub/*.md", "sub/a.md", True),
    ("sub/*.md", "sub/deep/a.md", False),
    ("sub/**/*.md", "sub/a.md", True),
    ("sub/**/*.md", "sub/deep/er/a.md", True),
    ("sub/**/*.md", "other/a.md", False),
    ("**/drafts/*", "drafts/a.md", True),
    ("**/drafts/*", "x/drafts/a.md", True),
    ("sub/**", "sub/deep/a.md", True),
    ("/a.md", "a.md", True),
    ("/a.md", "sub/a.md", False),
    ("a?.md", "ab.md", True),
    ("a?b", "a/b", False),
    ("[a-c].md", "b.md", True),
    ("[!a-c].md", "b.md", False),
    ("[!a-c].md", "d.md", True),
    ("[]].md", "].md", True),
    ("[^a].md", "^.md", True),
    ("[^a].md", "b.md", False),
    ("[a", "[a", True),
    ("a.md", "aXmd", False),
    ("a(b)+.md", "a(b)+.md", True),
    ("*", ".a\nb", True),
]


@pytest.mark.parametrize(("pattern", "path", "fits"), FITS)
def test_a_pattern_fits(pattern: str, path: str, fits: bool) -> None:
    assert Globs([pattern]).match(path) is fits


def test_a_slash_at_the_end_is_for_folders_alone() -> None:
    globs = Globs(["drafts/"])
    assert globs.match("sub/drafts", folder=True)
    assert not globs.match("sub/drafts")


@pytest.mark.parametrize("pattern", ["", "/", "[z-a]"])
def test_a_pattern_without_meaning_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="is no pattern"):
        Globs([pattern])


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_pattern_is_taken_or_refused(pattern: str, path: str) -> None:
    try:
        globs = Globs([pattern])
    except ValueError:
        return
    globs.match(path)
