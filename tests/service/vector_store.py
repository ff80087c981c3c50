"""A vector store for the tests: the embedded engine in a process of its own, or a true Qdrant server.

`HARTONOMOUS_TEST_QDRANT_URL` names a true server; else the engine is started once a session on a free port. Load it as
a pytest plugin (`pytest_plugins`) or import the fixtures into a conftest.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import aiohttp
import pytest

from tests.service.vector_wire import (
    empty_wire,
    filled_wire,
    indexed_name,
    indexed_wire,
    stocked_name,
    stocked_wire,
)

__all__ = [
    "Engine",
    "collection_name",
    "drop_collection",
    "empty_wire",
    "filled_wire",
    "free_port",
    "indexed_name",
    "indexed_wire",
    "running_store",
    "stocked_name",
    "stocked_wire",
    "vector_url",
]

START_S = 30.0
_MEMORY = Path("/dev/shm")
_MEMORY_BYTES = 1 << 30
_PREFIX = "hartonomous-tests-"


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now."""
    (port,) = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """Return so many ports of 127.0.0.1, each another one, that nobody listens on now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class Engine:
    """An engine process over a data folder; a context manager that ends it with SIGTERM."""

    def __init__(self, data: Path, *options: str) -> None:
        self.data = data
        self.options = options
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and wait until it listens."""
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "hartonomous",
                "engine",
                "--data",
                str(self.data),
                "--listen",
                f"127.0.0.1:{self.port}",
                *self.options,
            ],
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + START_S
        while not self._listens():
            assert self.process.poll() is None, f"the engine ended with {self.process.returncode}"
            assert time.monotonic() < until, "the engine does not listen"
            time.sleep(0.02)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def worker(self) -> int:
        """The id of the process that serves, 0 while there is none: the child of the one that keeps it alive."""
        assert self.process is not None
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text() or 0)

    def kill(self) -> None:
        """End it at once and for good, as `kill -9` does to the keeper, whose worker dies with it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        until = time.monotonic() + START_S
        while self._listens():
            assert time.monotonic() < until, "the worker outlives its keeper"
            time.sleep(0.002)

    def stop(self) -> int:
        """End the process with SIGTERM and return its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=60)

    def __enter__(self) -> Engine:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()


@contextmanager
def running_store(data: Path) -> Iterator[str]:
    """Yield the URL of the true Qdrant that the environment names, else of an engine over `data`."""
    given = os.environ.get("HARTONOMOUS_TEST_QDRANT_URL")
    if given:
        yield given.rstrip("/")
        return
    with Engine(data) as engine:
        yield engine.url


async def drop_collection(url: str, name: str) -> None:
    """Delete a collection by its own name, and the physical ones that it is an alias of, or was."""
    async with aiohttp.ClientSession(url) as session:
        async with session.get("/collections") as response:
            names = [entry["name"] for entry in (await response.json())["result"]["collections"]]
        for each in names:
            if each.partition("@")[0] == name:
                await (await session.delete(f"/collections/{each}")).read()


@contextmanager
def data_folder(otherwise: Path) -> Iterator[Path]:
    """Yield a folder in memory, where there is room for one, else `otherwise`.

    Most of what a collection costs is waiting until a disk has its files. What a crash leaves on a disk is shown by
    tests that start an engine of their own.
    """
    if not os.access(_MEMORY, os.W_OK) or shutil.disk_usage(_MEMORY).free < _MEMORY_BYTES:
        yield otherwise
        return
    _clear_memory()
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-", dir=_MEMORY) as folder:
        yield Path(folder)


def _clear_memory() -> None:
    """Delete what runs that were killed have left: a folder names its process."""
    for folder in _MEMORY.glob(f"{_PREFIX}*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def vector_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a vector store that speaks Qdrant's REST, the same one for the whole session."""
    with data_folder(tmp_path_factory.mktemp("vectors")) as data, running_store(data) as url:
        yield url


@pytest.fixture
def collection_name() -> str:
    """A collection name that no other test uses."""
    return f"test-{uuid4().hex}"
