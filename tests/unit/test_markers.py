"""Citation markers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.markers import LONGEST, UNDECIDED, read_marker, show_markers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("[1]", [1]),
        ("[ 12 ]", [12]),
        ("[1, 2;3]", [1, 2, 3]),
        ("[1 and 2]", [1, 2]),
        ("[2-4]", [2, 3, 4]),
        ("[^1]", [1]),
        ("[Source 3]", [3]),
        ("[source #1, source 2]", [1, 2]),
        ("[Quelle 2]", [2]),
        ("[[2]]", [2]),
        ("[source_2]", [2]),
        ("[#2]", [2]),
        ("[2.]", [2]),
        ("[1 2]", [1, 2]),
        ("[1, p. 30]", [1]),
        ("[Source 1, pages 3-4; 2]", [1, 2]),
        ("【2】", [2]),
        ("【2†source】", [2]),
        ("［2］", [2]),  # noqa: RUF001 (full-width, as Japanese models write them)
        ("[-1]", []),
        ("\\[9\\]", [9]),
        ("\\[\\[9\\]\\]", [9]),
        ("[９]", [9]),  # noqa: RUF001
        ("[٩]", [9]),
        ("[⁹]", [9]),
        ("[\n9]", [9]),
        ("[9\n]", [9]),
        ("[9\u200b]", [9]),
        ("[1，2、3]", [1, 2, 3]),  # noqa: RUF001
        ("\u30149\u3015", [9]),
        ("[*9*]", [9]),
        ("[**9**]", [9]),
        ("[_9_]", [9]),
        ("[see 9]", [9]),
        ("[cf. source 9]", [9]),
        ("[9; p. 4]", [9]),
        ("[9: p. 4]", [9]),
        ("[9,]", [9]),
        ("[id=9]", [9]),
        ("[source id: 9]", [9]),
        ("[S1, S2]", [1, 2]),
        ("[99999999999999999999999]", [99999999999999999999999]),
        ("[1000]", [1000]),
    ],
)
def test_markers_are_read_in_every_dialect(text: str, numbers: list[int]) -> None:
    assert read_marker(text, 0, final=True) == (numbers, len(text))
    assert read_marker(f"ab{text} c", 2, final=False) == (numbers, len(text) + 2)
    assert read_marker(text, 0, final=False) is UNDECIDED


@pytest.mark.parametrize(
    "text",
    [
        "[x] ",
        "[ ] ",
        "[] ",
        "[2023] ",
        "[text](x) ",
        "[a 1] ",
        "[1\n\n] ",
        "[1.5] ",
        "[p. 9] ",
        "[S. 9] ",
        "[**x**] ",
        "\\[x\\] ",
        "**[x]** ",
        "**[2021]** ",
        "**[1] x** ",
    ],
)
def test_other_brackets_are_none(text: str) -> None:
    assert read_marker(text, 0, final=False) is None


def test_emphasis_around_markers_alone_goes_with_them() -> None:
    assert read_marker("**[1]** x", 0, final=False) == ([1], 7)
    assert read_marker("_**[1][2], [3]**_", 0, final=False) == ([1, 2, 3], 17)
    assert read_marker("**[1]*", 0, final=False) is UNDECIDED
    assert read_marker("**[1]*", 0, final=True) is None


def test_an_address_behind_a_marker_goes_with_it() -> None:
    assert read_marker("[1](http://x.y/z) b", 0, final=False) == ([1], 17)
    assert read_marker("[1](http://x.y/z", 0, final=False) is UNDECIDED
    assert read_marker("[1](http://x.y/z", 0, final=True) == ([1], 3)
    assert read_marker("[1](see below) b", 0, final=False) == ([1], 3)


@pytest.mark.parametrize("before", ["a", "a_list", "x.args"])
def test_the_place_of_an_element_is_no_marker(before: str) -> None:
    assert read_marker("[0] ", 0, final=False, before=before) is None
    assert read_marker("[0] ", 0, final=False, before="3 kg") == ([0], 3)


def test_a_range_has_an_end() -> None:
    marker = read_marker("[1-999999999]", 0, final=True)
    assert isinstance(marker, tuple)
    assert len(marker[0]) <= 1_001


def test_what_is_open_is_decided_by_what_comes() -> None:
    assert read_marker("[1", 0, final=False) is UNDECIDED
    assert read_marker("[1", 0, final=True) is None
    assert read_marker("[1 {", 0, final=False) is None
    assert read_marker("[" + "1" * (LONGEST - 2), 0, final=False) is UNDECIDED
    assert read_marker("[" + "1" * (LONGEST - 1), 0, final=False) is None


@given(st.text(alphabet="[]0123 ,-^()x\n†.p*_\\\u200b٩", max_size=50), st.text(alphabet="[]1 ()x†", max_size=10))
def test_a_decision_never_changes_with_what_comes_later(text: str, more: str) -> None:
    for opening in ("[", "\\[", "**["):
        early = read_marker(f"{opening}{text}", 0, final=False)
        assert early is UNDECIDED or early == read_marker(f"{opening}{text}{more}", 0, final=False)


def test_markers_are_written_one_way() -> None:
    assert show_markers([1, 12]) == "[1][12]"
    assert show_markers([]) == ""
