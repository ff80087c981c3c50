"""The models of request bodies on input that is large on purpose."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from hartonomous.handlers.schemas import DocumentBody, IngestBody, QueryBody

UNKNOWN = {f"field{number}": number for number in range(10_000)}


@pytest.mark.parametrize(
    ("model", "value", "place"),
    [
        (IngestBody, {"documents": [{"text": "a"}], **UNKNOWN}, ("field0",)),
        (IngestBody, {"documents": [{"text": "a", **UNKNOWN}]}, ("documents", 0, "field0")),
        (QueryBody, {**UNKNOWN, "query": "a"}, ("field0",)),
    ],
)
def test_many_unknown_fields_cost_one_error(model: type[BaseModel], value: Any, place: tuple[Any, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(value)
    assert caught.value.error_count() == 1
    assert caught.value.errors()[0]["loc"] == place


def test_metadata_is_bounded_in_levels_and_bytes() -> None:
    def nested(levels: int) -> Any:
        value: Any = 1
        for level in range(levels):
            value = {"a": value} if level % 2 else [value]
        return {"a": value}

    assert DocumentBody.model_validate({"text": "a", "metadata": nested(15)}).metadata == nested(15)
    assert DocumentBody.model_validate({"text": "a", "metadata": {"a": "x" * 65_528}}).metadata
    for metadata in (nested(16), nested(100_000), {"a": "x" * 65_529}):
        with pytest.raises(ValidationError):
            DocumentBody.model_validate({"text": "a", "metadata": metadata})
