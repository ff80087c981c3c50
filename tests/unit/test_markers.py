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
    ],
)
def test_markers_are_read_in_every_dialect(text: str, numbers: list[int]) -> None:
    assert read_marker(text, 0, final=True) == (numbers, len(text))
    assert read_marker(f"ab{text} c", 2, final=False) == (numbers, len(text) + 2)
    assert read_marker(text, 0, final=False) is UNDECIDED


@pytest.mark.parametrize("text", ["[x] ", "[ ] ", "[] ", "[2023] ", "[1](x)", "[a 1] ", "[1\n] ", "[1.5] "])
def test_other_brackets_are_none(text: str) -> None:
    assert read_marker(text, 0, final=False) is None


def test_what_is_open_is_decided_by_what_comes() -> None:
    assert read_marker("[1", 0, final=False) is UNDECIDED
    assert read_marker("[1", 0, final=True) is None
    assert read_marker("[1 {", 0, final=False) is None
    assert read_marker("[" + "1" * (LONGEST - 2), 0, final=False) is UNDECIDED
    assert read_marker("[" + "1" * (LONGEST - 1), 0, final=False) is None


@given(st.text(alphabet="[]0123 ,-^(x\n", max_size=50), st.text(alphabet="[]1 (x", max_size=10))
def test_a_decision_never_changes_with_what_comes_later(text: str, more: str) -> None:
    early = read_marker(f"[{text}", 0, final=False)
    assert early is UNDECIDED or early == read_marker(f"[{text}{more}", 0, final=False)


def test_markers_are_written_one_way() -> None:
    assert show_markers([1, 12]) == "[1][12]"
    assert show_markers([]) == ""
