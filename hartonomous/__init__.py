"""Hartonomous: one dependable RAG API in front of llama.cpp and Qdrant."""

__version__ = "0.1.0"
