"""How the trial lets llama.cpp serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from hartonomous.trial.llama_server import default_threads, parameters


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (4, 3), (64, 8)])
def test_one_core_is_left_to_the_other_parts(cores: int, threads: int) -> None:
    assert default_threads(cores) == threads


@pytest.mark.parametrize(("kind", "context"), [("generative", 4096), ("embedding", 512), ("reranking", 512)])
def test_every_slot_has_the_whole_context_of_its_kind(kind: str, context: int) -> None:
    params = parameters(kind, Path("model.gguf"), 8710, "name")
    assert params.n_ctx == params.n_parallel * context
    assert params.embedding == (kind != "generative")


def test_the_longest_input_is_embedded_in_one_piece() -> None:
    assert parameters("embedding", Path("model.gguf"), 8711, "name").n_ubatch >= 512
