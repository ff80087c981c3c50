"""Fixtures of all tests: real llama.cpp servers over tiny models, a vector store, the real application."""

from __future__ import annotations

pytest_plugins = [
    "tests.llama",
    "tests.service.vector_store",
    "tests.service.application",
    "tests.service.fault_backend",
    "tests.service.rag",
]
