"""Real llama.cpp servers over the tiny models, each a process of its own, as session-wide fixtures.

`embedding_url`, `reranking_url` and `generative_url` are base addresses (`http://127.0.0.1:PORT`). A test that wants to
stop or kill a server starts its own `LlamaServer`.
"""

from __future__ import annotations

import select
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from hartonomous.trial import child
from tests import models

_START_SECONDS = 60.0
_WRITERS: dict[str, Callable[[Path], None]] = {
    "embedding": models.write_embedding_model,
    "wide-embedding": models.write_wide_embedding_model,
    "reranking": models.write_reranking_model,
    "generative": models.write_generative_model,
}


class LlamaServer:
    """A llama.cpp server of one model; a context manager that is ready when entered."""

    def __init__(self, kind: str, model: Path, *, port: int = 0, alias: str = "") -> None:
        program = [sys.executable, "-m", "hartonomous.trial.llama_server", "--kind", kind]
        options = ["--model", str(model), "--port", str(port), "--alias", alias or f"tiny-{kind}", "--threads", "1"]
        self.log = model.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                child.command(*program, *options), stdout=subprocess.PIPE, stderr=log, text=True
            )
        try:
            self.url = self._address()
            self._wait_until_healthy()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process and wait until it is gone; more than once is fine."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _address(self) -> str:
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], _START_SECONDS)
        address = self.process.stdout.readline().strip() if readable else ""
        if not address:
            raise RuntimeError(f"llama.cpp did not start:\n{self.log.read_text(errors='replace')}")
        return address

    def _wait_until_healthy(self) -> None:
        ends = time.monotonic() + _START_SECONDS
        while not _healthy(self.url):
            if time.monotonic() > ends:
                raise RuntimeError("llama.cpp did not become healthy")
            time.sleep(0.02)


def write_model(kind: str, folder: Path) -> Path:
    """Write the tiny model of a kind (`embedding`, `wide-embedding`, `reranking`, `generative`) and return its path."""
    path = folder / f"tiny-{kind}.gguf"
    _WRITERS[kind](path)
    return path


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _serve(kind: str, paths: pytest.TempPathFactory, model: str = "") -> Iterator[str]:
    with LlamaServer(
        kind, write_model(model or kind, paths.mktemp(kind)), alias=f"tiny-{model}" if model else ""
    ) as server:
        yield server.url


@pytest.fixture(scope="session")
def embedding_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real llama.cpp embedding service, 32 dimensions, `tiny-embedding`."""
    yield from _serve("embedding", tmp_path_factory)


@pytest.fixture(scope="session")
def wide_embedding_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Another embedding service, 48 dimensions, `tiny-wide-embedding`."""
    yield from _serve("embedding", tmp_path_factory, "wide-embedding")


@pytest.fixture(scope="session")
def reranking_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real llama.cpp reranking service, `tiny-reranking`."""
    yield from _serve("reranking", tmp_path_factory)


@pytest.fixture(scope="session")
def generative_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real llama.cpp generative service with 4,096 tokens a slot, `tiny-generative`; it never ends by itself."""
    yield from _serve("generative", tmp_path_factory)
