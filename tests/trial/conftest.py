"""The trial's own small models, served by llama.cpp: what their tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hartonomous.trial import models
from hartonomous.trial.parts import alias_of
from tests.llama import LlamaServer


def _serve(package: models.Package, kind: str, log: Path) -> Iterator[str]:
    folder = Path(os.environ.get("HARTONOMOUS_TEST_MODELS", "var/models"))
    path = folder / package.target
    if not path.is_file():
        pytest.skip(f"{path} is not there: hartonomous trial --fetch-only")
    linked = log / path.name
    linked.symlink_to(path.resolve())
    with LlamaServer(kind, linked, alias=alias_of(path)) as server:
        yield server.url


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from _serve(models.EMBEDDING, "embedding", tmp_path_factory.mktemp("minilm"))


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from _serve(models.GENERATIVE, "generative", tmp_path_factory.mktemp("smollm"))
