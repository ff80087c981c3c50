"""Which model a service has when its addresses say different things."""

from __future__ import annotations

import pytest

from hartonomous.core.served import Served, agreed

M1, M2, WIDE = Served("m1", 32), Served("m2", 32), Served("m1", 64)
UNSAID = Served("m1", None)


def test_a_width_that_is_not_said_contradicts_none() -> None:
    assert M1.is_like(UNSAID)
    assert UNSAID.is_like(WIDE)
    assert not M1.is_like(WIDE)
    assert not M1.is_like(M2)


@pytest.mark.parametrize(
    ("before", "told", "expected"),
    [
        pytest.param(None, [], None, id="nobody says anything"),
        pytest.param(M1, [], M1, id="nobody says anything any more"),
        pytest.param(None, [(M1, 1), (M2, 1)], M1, id="of as many the first"),
        pytest.param(None, [(M1, 1), (M2, 2)], M2, id="by weight"),
        pytest.param(None, [(M1, 1), (M2, 1), (M2, 1)], M2, id="what most serve"),
        pytest.param(M1, [(M1, 1), (M2, 5)], M1, id="what was the model stays it while anyone has it"),
        pytest.param(M1, [(M2, 1), (WIDE, 3)], WIDE, id="nobody has it any more"),
        pytest.param(M1, [(UNSAID, 1), (M2, 3)], M1, id="may be the same"),
    ],
)
def test_the_model_of_a_service(before: Served | None, told: list[tuple[Served, int]], expected: Served | None) -> None:
    assert agreed(before, told) == expected
