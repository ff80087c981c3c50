from __future__ import annotations

import io

from hartonomous.evaluation.progress import Shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_than_on_a_terminal_a_stage_ends_with_a_line_and_is_told_now_and_then() -> None:
    stream = io.StringIO()
    with Shown(stream, line_every_s=1e9) as shown:
        for done in range(1, 4):
            shown.progress("feeding", done, 3)
    assert stream.getvalue() == "feeding: 3 of 3\n"
    with Shown(stream := io.StringIO(), line_every_s=0.0) as shown:
        shown.progress("dense", 1, 1_000)
    assert stream.getvalue() == "dense: 1 of 1,000\n"


def test_on_a_terminal_each_stage_is_a_bar() -> None:
    stream = Terminal()
    with Shown(stream) as shown:
        shown.progress("feeding", 1, 3)
        shown.progress("hybrid + feedback", 3, 3)
    assert "feeding" in stream.getvalue()
    assert "3/3" in stream.getvalue()
