"""Fixtures of all tests: real llama.cpp servers over tiny models, a vector store, the real application."""

from __future__ import annotations

import os
import signal
import threading

from hypothesis import settings

pytest_plugins = [
    "tests.llama",
    "tests.redis",
    "tests.service.vector_store",
    "tests.service.application",
    "tests.service.fault_backend",
    "tests.service.rag",
]

# Where a run decides whether something lands, the same examples are tried each time; elsewhere new ones are.
# None has a time to keep: how long it takes says how busy the machine is.
settings.register_profile("any", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "any")

# A shell that runs the tests in the background has SIGINT ignored, and so would every process that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
