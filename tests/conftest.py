"""Fixtures of all tests: real llama.cpp servers over tiny models, a vector store, the real application."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
import uvloop
from hypothesis import settings

pytest_plugins = [
    "tests.llama",
    "tests.redis",
    "tests.service.vector_store",
    "tests.service.application",
    "tests.service.fault_backend",
    "tests.service.rag",
    "tests.service.traces",
]

# Where a run decides whether something lands, the same examples are tried each time; elsewhere new ones are.
# None has a time to keep: how long it takes says how busy the machine is.
settings.register_profile("any", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "any")

# A shell that runs the tests in the background has SIGINT ignored, and so would every process that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Which files take longest, longest first: begun last, one of them would be all that still runs at the end.
_LONGEST = (
    "service/test_upgrade.py",
    "service/test_ingest_crashes.py",
    "service/test_reload_under_load.py",
    "hosts/test_hosts.py",
    "service/test_reindex.py",
    "install/test_install.py",
    "chaos/test_chaos.py",
    "service/test_systemd.py",
    "monitoring/test_monitoring.py",
    "contract/test_contract.py",
    "service/test_ingest_cli.py",
    "service/test_server.py",
    "service/test_engine_process.py",
)
_TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the others stay in their order, and so do the tests of each file."""
    ranks = {_TESTS / name: rank for rank, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let no garbage collection look at what stays until the end: a third of the processor time went there."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _runtime_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let servers of the tests tell each other of reloads in a place of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RUNTIME_DIRECTORY", raising=False)
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))
        yield


# What runs within the tests does so on asyncio's own loop, or on the one that is named here; servers that they start
# choose for themselves.
_LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
_LOOP = os.environ.get("HARTONOMOUS_TEST_EVENT_LOOP", "asyncio")


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run each test on one loop, and on both where its mark says so (`asyncio(loop_factories=…)`)."""
    marks = item.iter_markers("asyncio")
    return _LOOPS if any("loop_factories" in mark.kwargs for mark in marks) else {_LOOP: _LOOPS[_LOOP]}
