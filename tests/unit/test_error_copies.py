"""An error that several callers share is copied for each of them, whatever its class is made of."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from hartonomous import errors
from hartonomous.clients import failures
from hartonomous.errors import HartonomousError

WHATEVER: dict[str, Any] = {"answered": 400, "wait_s": 2.0, "is_overload": True, "is_blamed": True}


def classes() -> Iterator[type[HartonomousError]]:
    for module in (errors, failures):
        for _, found in inspect.getmembers(module, inspect.isclass):
            if issubclass(found, HartonomousError):
                yield found


@pytest.mark.parametrize("kind", sorted(set(classes()), key=str))
def test_a_copy_says_the_same_and_is_its_own(kind: type[HartonomousError]) -> None:
    wanted = inspect.signature(kind.__init__).parameters
    error = kind("it failed", **{name: value for name, value in WHATEVER.items() if name in wanted})
    error.__cause__ = ValueError()
    copied = copy.copy(error)
    assert (type(copied), str(copied), vars(copied)) == (kind, "it failed", vars(error))
    assert copied.__cause__ is error.__cause__
    copied.param = "documents.0"
    assert error.param is None
