"""The fixtures of the trial's tests."""

from __future__ import annotations

from tests.llama import embedding_url, generative_url, reranking_url

__all__ = ["embedding_url", "generative_url", "reranking_url"]
