"""Fixtures of all tests: real llama.cpp servers over tiny models, a vector store, the real application."""

from __future__ import annotations

import os

from hypothesis import settings

pytest_plugins = [
    "tests.llama",
    "tests.service.vector_store",
    "tests.service.application",
    "tests.service.fault_backend",
    "tests.service.rag",
]

# Where a run decides whether something lands, the same examples are tried each time; elsewhere new ones are.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
