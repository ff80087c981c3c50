"""The trial stack: small real models, served by real llama.cpp, with the vector engine and the API around them."""

from __future__ import annotations


class TrialError(Exception):
    """The trial cannot go on; the message is a sentence for the user."""
